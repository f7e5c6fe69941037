//go:build integration

package email_test

import (
	"path/filepath"
	"testing"

	"github.com/postbus/postbus/transport"
)

// TestRealDurable: on Postfix and Dovecot a durable interest goes on where it was, gets what was sent
// twice once, and begins with the last messages if it is asked to; all in order.
func TestRealDurable(t *testing.T) {
	config, _ := real(t)
	config.To = []string{config.Username}
	b := &bench{TB: t, gid: transport.NewGID()}
	b.carrier = open(t, config)
	defer closeCarrier(t, b.carrier)
	name := "/durable/" + b.gid.String()
	send := func(n int) {
		t.Helper()
		for range n {
			m := b.message("x")
			m.Name = name
			again := *m
			for range 2 {
				if err := b.carrier.Send(t.Context(), m); err != nil {
					t.Fatal(err)
				}
				if m.Info.Sequence%3 != 0 {
					break
				}
				m = &again // as after an unknown outcome
			}
		}
	}
	live, _ := receive(t, b.carrier, transport.Interest{Kind: transport.TopicMessage, Name: name})
	want := func(what string, got received, first, last uint64) {
		t.Helper()
		for n := first; n <= last; n++ {
			d := got.next(t)
			if d.Message.Info.Sequence != n {
				t.Fatalf("%s: message %d came, want %d", what, d.Message.Info.Sequence, n)
			}
			ack(t, d)
		}
	}
	send(10)
	want("live", live, 1, 10)

	own := config
	own.State = filepath.Join(t.TempDir(), "state")
	c := open(t, own)
	in := transport.Interest{Kind: transport.TopicMessage, Name: name, Durable: "d", Last: 4}
	got, _ := receive(t, c, in)
	want("the last", got, 7, 10)
	send(5)
	want("what comes", got, 11, 15)
	closeCarrier(t, c)

	send(30)
	want("live", live, 11, 45)
	c = open(t, own)
	got, stop := receive(t, c, in)
	want("what came meanwhile", got, 16, 40)
	stop()
	closeCarrier(t, c)
	c = open(t, own)
	defer closeCarrier(t, c)
	got, _ = receive(t, c, in)
	want("what was not settled", got, 41, 45)
	late, _ := receive(t, c, transport.Interest{Kind: transport.TopicMessage, Name: name, Last: 2})
	want("the last of a live interest", late, 44, 45)
	send(1)
	want("what comes", got, 46, 46)
	want("what comes", late, 46, 46)
	want("what comes", live, 46, 46)
}
