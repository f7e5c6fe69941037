package nats_test

import (
	"strings"
	"testing"

	natsgo "github.com/nats-io/nats.go"
)

// A request of somebody who means ill names a reply subject at which an answer would end the server's connection, or
// break its protocol. It is not answered, and the server goes on.
func TestHostileReplySubject(t *testing.T) {
	t.Parallel()
	s := startServer(t, nil)
	carrier, node, log := openLogging(t, config(s), false)
	serve(t, node, "u1.echo")
	conn := connect(t, s)
	for _, reply := range []string{strings.Repeat("a", 5000), "a..b", ".a", "a.", "a.*", ">", "$JS.ACK.x", "a b", "a\x01b"} {
		m := natsgo.NewMsg("u1.echo")
		m.Header.Set("Reply-To", reply)
		m.Data = []byte("x")
		check(t, conn.PublishMsg(m))
		if !strings.Contains(reply, " ") {
			check(t, conn.PublishRequest("u1.echo", reply[:min(len(reply), 1000)], []byte("x")))
		}
	}
	check(t, conn.Flush())
	callEcho(t, node) // behind the others
	roundTrip(t, node)
	if got := carrier.Dropped(); got != 0 {
		t.Errorf("%d messages were dropped", got)
	}
	select {
	case m := <-log.messages:
		t.Errorf("the log says %q", m)
	default:
	}
}
