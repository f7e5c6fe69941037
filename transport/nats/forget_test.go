package nats_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/postbus/postbus/transport"
)

// forgetful is a server that can be made to forget what it has confirmed about consumers, as one that is killed before it has
// written that down.
type forgetful struct {
	t       *testing.T
	server  *server.Server
	options func(*server.Options)
	address string
	dir     string
	states  map[string][]byte // of consumers, by file
}

func startForgetful(t *testing.T) *forgetful {
	f := &forgetful{t: t, address: freeAddress(t), dir: t.TempDir()}
	f.options = func(o *server.Options) {
		fixed(f.address)(o)
		o.JetStream, o.StoreDir = true, f.dir
	}
	f.server = startServer(t, f.options)
	return f
}

// stop stops the server. remember has what it knows now on disk.
func (f *forgetful) stop() { stopServer(f.server) }

func (f *forgetful) start() { f.server = startServer(f.t, f.options) }

// remember keeps what the server has on disk about consumers. The server is away.
func (f *forgetful) remember() {
	f.states = make(map[string][]byte)
	err := filepath.WalkDir(f.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "o.dat" && strings.Contains(path, "KEPT/obs") {
			f.states[path], err = os.ReadFile(path)
		}
		return err
	})
	if err != nil || len(f.states) == 0 {
		f.t.Fatalf("%d states of consumers are on disk: %v", len(f.states), err)
	}
}

// forget puts back what was there at the last remember. The server is away.
func (f *forgetful) forget() {
	for path, state := range f.states {
		if err := os.WriteFile(path, state, 0o600); err != nil {
			f.t.Fatal(err)
		}
	}
}

// TestForgottenSettlements: a server that was killed has forgotten that messages were delivered, and that they
// were settled. Who reads the durable name or group next does not get them again.
func TestForgottenSettlements(t *testing.T) {
	for name, in := range map[string]transport.Interest{"durable": durable(), "group": inGroup()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startForgetful(t)
			c := kept(s.server)
			pub := newPublisher(openNode(t, c))
			first := openNode(t, c)
			got, _ := receive(t, first, in)
			pub.publish(t, 1)
			ack(t, got.next())
			s.stop()
			s.remember()
			s.start()
			pub.publish(t, 2)
			ack(t, got.next())
			ack(t, got.next())
			s.stop()
			s.forget()
			if err := first.Close(limited(t)); err != nil {
				t.Log(err) // the server is away
			}
			s.start()
			next, _ := receive(t, openNode(t, c), in)
			pub.publish(t, 1)
			d := next.next()
			if d.Message.Info.Sequence != 4 {
				t.Errorf("message %d came again after it had been settled", d.Message.Info.Sequence)
			}
			ack(t, d)
		})
	}
}

// TestForgottenDelivery: a server that was killed has forgotten that it has delivered a message to a member of a
// group. No other member gets it while the first is at work, or after it is done.
func TestForgottenDelivery(t *testing.T) {
	t.Parallel()
	s := startForgetful(t)
	c := kept(s.server)
	pub := newPublisher(openNode(t, c))
	first := openNode(t, c)
	got, _ := receive(t, first, inGroup())
	pub.publish(t, 1)
	ack(t, got.next())
	s.stop()
	s.remember()
	s.start()
	pub.publish(t, 1)
	d := got.next()
	s.stop()
	s.forget()
	s.start()
	second, _ := receive(t, openNode(t, c), inGroup())
	second.empty(500 * time.Millisecond)
	ack(t, d)
	second.empty(transport.MinLease + time.Second)
	pub.publish(t, 1)
	select {
	case d = <-got.all:
	case d = <-second.all:
	case <-time.After(timeout):
		t.Fatal("nothing comes any more")
	}
	if d.Message.Info.Sequence != 3 {
		t.Errorf("message %d came again", d.Message.Info.Sequence)
	}
	ack(t, d)
}

// TestNameAnew: a durable name that is deleted, and used again, gets all that the interest asks for, whatever its last user had.
func TestNameAnew(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	c := kept(s)
	pub := newPublisher(openNode(t, c))
	first := openNode(t, c)
	got, _ := receive(t, first, durable())
	pub.publish(t, 2)
	for range 2 {
		ack(t, got.next())
	}
	if err := first.Close(limited(t)); err != nil {
		t.Fatal(err)
	}
	if err := jetStream(t, s).DeleteConsumer(limited(t), "KEPT", "durable-d"); err != nil {
		t.Fatal(err)
	}
	in := durable()
	in.Last = 10
	got, _ = receive(t, openNode(t, c), in)
	for want := uint64(1); want <= 2; want++ {
		d := got.next()
		if n := d.Message.Info.Sequence; n != want {
			t.Errorf("message %d came, want %d", n, want)
		}
		ack(t, d)
	}
}

// TestRepetitionsOfPlainMessages: a message whose sender does not know that it was taken comes again. A stream keeps it once,
// and a plain subscription delivers it once.
func TestRepetitionsOfPlainMessages(t *testing.T) {
	t.Parallel()
	s := startServer(t, withJetStream(t))
	carrier := open(t, kept(s))
	got, _ := receive(t, openNode(t, kept(s)), transport.Interest{Kind: transport.TopicMessage, Name: "/t"})
	p := newPublisher(nil)
	first := p.message()
	first.ID = transport.NewID(p.gid, 1, "test")
	second := p.message()
	second.ID = transport.NewID(p.gid, 2, "test")
	for range 2 {
		if err := carrier.Send(limited(t), first); err != nil {
			t.Fatal(err)
		}
	}
	if err := carrier.Send(limited(t), second); err != nil {
		t.Fatal(err)
	}
	for want := uint64(1); want <= 2; want++ {
		if n := got.next().Message.Info.Sequence; n != want {
			t.Errorf("message %d came, want %d", n, want)
		}
	}
}
