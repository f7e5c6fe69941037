package intraprocess_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/transport"
)

var (
	durable = transport.Interest{Kind: transport.TopicMessage, Name: "/t", Durable: "d"}
	group   = transport.Interest{Kind: transport.TopicMessage, Name: "/t", Group: "g"}
)

// hold states an interest whose deliveries are kept.
func hold(t *testing.T, c *intraprocess.Carrier, in transport.Interest) (held func() []transport.Delivery, stop func()) {
	t.Helper()
	var mu sync.Mutex
	var all []transport.Delivery
	stop, err := c.Receive(in, func(d transport.Delivery) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, d)
	})
	if err != nil {
		t.Fatal(err)
	}
	return func() []transport.Delivery {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}, stop
}

func numbered(gid transport.GID, n uint64) *transport.Message {
	return &transport.Message{Kind: transport.TopicMessage, Name: "/t", Info: transport.Info{PublisherGID: gid, Sequence: n}}
}

// What has been passed on can't be settled any more by whoever had it.
func TestPassedOn(t *testing.T) {
	bus := intraprocess.NewBus()
	a, b := bus.Attach(), bus.Attach()
	for _, in := range []transport.Interest{durable, group} {
		before, stop := hold(t, a, in)
		send(t, b, numbered(transport.NewGID(), 1))
		stop()
		after, stop := hold(t, b, in)
		first, second := before()[0], after()[0]
		first.Nack(0, "late")
		first.Term("late")
		if err := first.Ack(); err == nil {
			t.Error("what has been passed on was acknowledged")
		}
		if second.Attempt != 2 || len(after()) != 1 {
			t.Errorf("attempt %d, %d deliveries", second.Attempt, len(after()))
		}
		if err := second.Ack(); err != nil {
			t.Error(err)
		}
		stop()
	}
	if dead := bus.DeadLetters(); len(dead) > 0 {
		t.Errorf("dead are %v", dead)
	}
	closeCarrier(t, a)
	closeCarrier(t, b)
}

func TestDurableNamesOfTheBus(t *testing.T) {
	bus := intraprocess.NewBus()
	a, b := bus.Attach(), bus.Attach()
	_, stop := hold(t, a, durable)
	if _, err := b.Receive(durable, func(transport.Delivery) {}); !errors.Is(err, transport.ErrInUse) {
		t.Errorf("a durable name in two participants: %v", err)
	}
	stop()
	other := durable
	other.Name = "/other"
	if _, err := b.Receive(other, func(transport.Delivery) {}); !errors.Is(err, transport.ErrInUse) || !strings.Contains(err.Error(), "/t") {
		t.Errorf("a durable name with another topic: %v", err)
	}
	both := durable
	both.Group = "g"
	if _, err := b.Receive(both, func(transport.Delivery) {}); !errors.Is(err, transport.ErrNotSupported) {
		t.Errorf("durable and in a group: %v", err)
	}
	closeCarrier(t, a)
	if _, err := a.Receive(durable, func(transport.Delivery) {}); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("durable after Close: %v", err)
	}
	closeCarrier(t, b)
}

func TestDeadLetters(t *testing.T) {
	bus := intraprocess.NewBus()
	c := bus.Attach()
	held, _ := hold(t, c, durable)
	gid := transport.NewGID()
	const most = 1 << 10
	for n := range uint64(most + 1) {
		send(t, c, numbered(gid, n+1))
		held()[n].Term(fmt.Sprint("reason ", n+1))
	}
	dead := bus.DeadLetters()
	if len(dead) != most {
		t.Fatalf("%d dead letters, want %d", len(dead), most)
	}
	if d := dead[0]; d.Message.Info.Sequence != 2 || d.Reason != "reason 2" || d.For != `durable name "d"` {
		t.Errorf("the oldest is %+v", d)
	}
	closeCarrier(t, c)
}

// A durable name that nobody reads has bounds, and does not fail those who send.
func TestWhatWaitsIsBounded(t *testing.T) {
	var log bytes.Buffer
	defer slog.SetDefault(slog.Default())
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))

	bus := intraprocess.NewBus()
	c := bus.Attach()
	_, stop := hold(t, c, durable)
	stop()
	gid := transport.NewGID()
	const over = 10
	for n := range uint64(transport.KeepAllMessages + over) {
		send(t, c, numbered(gid, n+1))
	}
	in := durable
	in.InFlight = transport.MaxInFlight
	held, _ := hold(t, c, in)
	if first := held()[0].Message.Info.Sequence; first != over+1 {
		t.Errorf("the oldest kept is message %d, want %d", first, over+1)
	}
	if text := log.String(); strings.Count(text, "the oldest are dropped") != 1 {
		t.Errorf("the log says %s", text)
	}
	closeCarrier(t, c)
}

func TestHistoryIsBounded(t *testing.T) {
	bus := &intraprocess.Bus{History: 2}
	c := bus.Attach()
	last := transport.Interest{Kind: transport.TopicMessage, Name: ">", Last: 100}
	half := make([]byte, transport.KeepAllBytes/2)
	for i, name := range []string{"a", "b", "a", "a", "c"} {
		m := &transport.Message{Kind: transport.TopicMessage, Name: name, Info: transport.Info{Sequence: uint64(i + 1)}}
		if name == "c" {
			m.Body = half
		}
		send(t, c, m)
	}
	sequences := func() (got []uint64) {
		held, stop := hold(t, c, last)
		defer stop()
		for _, d := range held() {
			got = append(got, d.Message.Info.Sequence)
		}
		return got
	}
	if got, want := sequences(), []uint64{2, 3, 4, 5}; !slices.Equal(got, want) {
		t.Errorf("the last are %d, want %d", got, want)
	}
	m := &transport.Message{Kind: transport.TopicMessage, Name: "d", Body: append(half, 1), Info: transport.Info{Sequence: 6}}
	send(t, c, m)
	if got, want := sequences(), []uint64{6}; !slices.Equal(got, want) {
		t.Errorf("with many bytes the last are %d, want %d", got, want)
	}
	closeCarrier(t, c)
}

// Members come, settle in every way, and go: in the end each message has been acknowledged once.
func TestGroupInTurmoil(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			bus := intraprocess.NewBus()
			var mu sync.Mutex
			acked := make(map[uint64]int)
			var work sync.WaitGroup
			member := func(reliable bool) *intraprocess.Carrier {
				c := bus.Attach()
				in := group
				in.InFlight, in.MaxDeliver = 1+random.IntN(5), 1000
				fates := random.Perm(100)
				var count int // calls of deliver come one at a time
				if _, err := c.Receive(in, func(d transport.Delivery) {
					fate := fates[count%len(fates)]
					count++
					if !reliable && fate < 20 {
						d.Nack(time.Duration(fate-5)*time.Second, "not now") // some of it given back
						return
					}
					if !reliable && fate < 30 {
						return // never settled
					}
					work.Go(func() {
						time.Sleep(time.Duration(fate) * time.Millisecond)
						if d.Ack() == nil {
							mu.Lock()
							acked[d.Message.Info.Sequence]++
							mu.Unlock()
						}
					})
				}); err != nil {
					t.Error(err)
				}
				return c
			}
			sender := bus.Attach()
			gid := transport.NewGID()
			members := []*intraprocess.Carrier{member(false), member(false)}
			const n = 300
			for seq := range uint64(n) {
				send(t, sender, numbered(gid, seq+1))
				time.Sleep(10 * time.Millisecond)
				switch random.IntN(20) {
				case 0:
					i := random.IntN(len(members))
					closeCarrier(t, members[i])
					members[i] = member(false)
				case 1:
					send(t, sender, numbered(gid, seq+1)) // a repetition
				}
			}
			for _, c := range members {
				closeCarrier(t, c)
			}
			last := member(true)
			time.Sleep(time.Minute)
			work.Wait()
			for seq := range uint64(n) {
				if acked[seq+1] != 1 {
					t.Errorf("seed %d: message %d was acknowledged %d times", seed, seq+1, acked[seq+1])
				}
			}
			if dead := bus.DeadLetters(); len(dead) > 0 {
				t.Errorf("seed %d: %d are dead", seed, len(dead))
			}
			closeCarrier(t, last)
			closeCarrier(t, sender)
		})
	}
}
