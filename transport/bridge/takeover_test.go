package bridge_test

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"

	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/service"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/bridge"
	"github.com/postbus/postbus/transport/nats"
)

// TestSendersOfOneCall: a call that another sender takes over while its answer is awaited is answered to both.
func TestSendersOfOneCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busA, busB := intraprocess.NewBus(), intraprocess.NewBus()
		b := join(t, "a", busA, "b", busB, "services -> /x")
		var runs atomic.Int64
		serve(t, newNode(t, busB), "/x", func(context.Context, *transport.Message) ([]byte, error) {
			time.Sleep(time.Second)
			runs.Add(1)
			return []byte("the answer"), nil
		})
		first, second, gid := newNode(t, busA), newNode(t, busA), transport.NewGID()
		answers := listen(t, first, gid)
		for range 2 {
			send(t, first, request(gid, 1, ""))
			send(t, second, request(gid, 1, ""))
		}
		time.Sleep(2 * time.Second)
		to := make(map[string]int)
		for len(answers) > 0 {
			m := <-answers
			if to[m.To[0]]++; string(m.Body) != "the answer" {
				t.Errorf("got %+v", m)
			}
		}
		if len(to) != 2 || to[first.Address()] != 1 || to[second.Address()] != 1 || runs.Load() != 1 {
			t.Errorf("answers to %v, and the handler ran %d times", to, runs.Load())
		}
		if s := total(t, b); s.Answered != 2 || s.Repeated != 3 {
			t.Errorf("%+v", s)
		}
	})
}

// TestCallIsTakenOverOnNATS: a bridge ends while a handler on NATS is at work for a call of a durable rule. The next bridge has another
// inbox, and gets the answer there, whether the handler ends before or after that.
func TestCallIsTakenOverOnNATS(t *testing.T) {
	for name, test := range map[string]struct{ kept, late bool }{
		"at work":                {false, false},
		"done":                   {false, true},
		"at work, with a stream": {true, false},
		"done, with a stream":    {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testTakenOver(t, test.kept, test.late)
		})
	}
}

func testTakenOver(t *testing.T, kept, late bool) {
	mail, s := startMail(t), startNATS(t, server.RANDOM_PORT, t.TempDir())
	t.Cleanup(func() { stopNATS(s) })
	config := nats.Config{Servers: []string{s.ClientURL()}}
	var options []service.ServerOption
	if kept {
		config.Streams = []nats.Stream{{Name: "KEPT", Names: []string{"/>"}}}
		options = append(options, service.Durable("server"))
	}
	atBridge := onMail(mail, bridgeAddress, programAddress)
	atBridge.State = filepath.Join(t.TempDir(), "state.db")
	first, second := mailNode(t, onMail(mail, programAddress, bridgeAddress)), natsNode(t, config)
	begun, done, goOn := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var runs atomic.Int64
	serve(t, second, "/x", func(ctx context.Context, m *transport.Message) ([]byte, error) {
		if string(m.Body) == "behind" {
			return nil, nil
		}
		if runs.Add(1) == 1 {
			close(begun)
			<-goOn
			defer close(done)
		}
		return []byte("the answer"), nil
	}, options...)
	requests := make(chan *natsgo.Msg, 10)
	plain, err := natsgo.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(plain.Close)
	if _, err := plain.ChanSubscribe("/.x", requests); err != nil {
		t.Fatal(err)
	}
	if err := plain.Flush(); err != nil {
		t.Fatal(err)
	}
	run := func() (end func()) {
		m, n := openMail(t, atBridge), openNATS(t, config)
		b := openBridge(t, bridge.Side{Name: "mail", Node: m}, bridge.Side{Name: "nats", Node: n}, "services -> /x durable=x")
		return func() {
			ended, cancel := context.WithCancel(context.Background())
			cancel()
			for _, part := range []interface{ Close(context.Context) error }{b, m, n} {
				_ = part.Close(ended) // it gives up what is under way
			}
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client := newClient(t, first, "/x")
	end := run()
	sequence, err := client.Send(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	<-begun
	<-requests
	end()
	if late {
		close(goOn)
		<-done
	}
	defer run()()
	if !late {
		select {
		case <-requests:
		case <-ctx.Done():
			t.Fatal("the request is not sent again")
		}
		if !kept { // what comes behind it is answered, so it has come to the server
			if _, err := plain.RequestWithContext(ctx, "/.x", []byte("behind")); err != nil {
				t.Fatal(err)
			}
		}
		close(goOn)
	}
	answer, err := client.Response(ctx, sequence)
	if err != nil || string(answer.Body) != "the answer" || runs.Load() != 1 {
		t.Errorf("got %+v, %v, and the handler ran %d times", answer, err, runs.Load())
	}
}
