package transport_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/postbus/postbus/transport"
)

func TestKindString(t *testing.T) {
	for kind, want := range map[transport.Kind]string{
		transport.TopicMessage: "topic message", transport.Request: "request", transport.Response: "response",
		transport.ErrorResponse: "error response", 0: "kind(0)", 99: "kind(99)",
	} {
		if got := kind.String(); got != want {
			t.Errorf("Kind %d is %q, want %q", uint8(kind), got, want)
		}
	}
}

func TestMessageExpired(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, test := range []struct {
		deadline time.Time
		want     bool
	}{
		{time.Time{}, false},
		{now.Add(time.Nanosecond), false},
		{now, true},
		{now.Add(-time.Nanosecond), true},
	} {
		if got := (&transport.Message{Deadline: test.deadline}).Expired(now); got != test.want {
			t.Errorf("at %v a message with deadline %v is expired = %v", now, test.deadline, got)
		}
	}
}

func TestMessageCaller(t *testing.T) {
	client, other := mustGID(t, someGID), mustGID(t, "17")
	ours := transport.NewID(client, 7, "host")
	for _, test := range []struct {
		what string
		m    transport.Message
		gid  transport.GID
		seq  uint64
		ok   bool
	}{
		{"both agree", transport.Message{InReplyTo: ours, Info: transport.Info{ClientGID: client, RequestSequence: 7}}, client, 7, true},
		{"only the ID", transport.Message{InReplyTo: ours}, client, 7, true},
		{"only the ID, with a stray number", transport.Message{InReplyTo: ours, Info: transport.Info{RequestSequence: 9}}, client, 7, true},
		{"only the GID", transport.Message{Info: transport.Info{ClientGID: other, RequestSequence: 3}}, other, 3, true},
		{"foreign ID", transport.Message{InReplyTo: transport.ParseID("a@b"), Info: transport.Info{ClientGID: other, RequestSequence: 3}}, other, 3, true},
		{"another client", transport.Message{InReplyTo: ours, Info: transport.Info{ClientGID: other, RequestSequence: 7}}, transport.GID{}, 0, false},
		{"another number", transport.Message{InReplyTo: ours, Info: transport.Info{ClientGID: client, RequestSequence: 8}}, transport.GID{}, 0, false},
		{"short GID", transport.Message{InReplyTo: ours, Info: transport.Info{ClientGID: client.Short(), RequestSequence: 6}}, client, 7, true},
		{"short GID, another client", transport.Message{InReplyTo: ours, Info: transport.Info{ClientGID: other, RequestSequence: 6}}, transport.GID{}, 0, false},
		{"short GID, number not shortened", transport.Message{InReplyTo: ours, Info: transport.Info{ClientGID: client.Short(), RequestSequence: 7}}, transport.GID{}, 0, false},
		{"short GID in both", transport.Message{InReplyTo: transport.NewID(other, 7, "host"), Info: transport.Info{ClientGID: other, RequestSequence: 7}}, other, 7, true},
		{"short GID in both, another number", transport.Message{InReplyTo: transport.NewID(other, 7, "host"), Info: transport.Info{ClientGID: other, RequestSequence: 6}}, transport.GID{}, 0, false},
		{"foreign ID only", transport.Message{InReplyTo: transport.ParseID("a@b")}, transport.GID{}, 0, false},
		{"neither", transport.Message{}, transport.GID{}, 0, false},
	} {
		gid, seq, ok := test.m.Caller()
		if gid != test.gid || seq != test.seq || ok != test.ok {
			t.Errorf("%s: Caller() = %v, %d, %v, want %v, %d, %v", test.what, gid, seq, ok, test.gid, test.seq, test.ok)
		}
	}
}

// settler notes what it hears.
type settler []string

func (s *settler) Ack() error {
	*s = append(*s, "ack")
	return nil
}
func (s *settler) Nack(delay time.Duration, reason string) {
	*s = append(*s, "nack "+delay.String()+" "+reason)
}
func (s *settler) Term(reason string) { *s = append(*s, "term "+reason) }

func TestDeliverySettles(t *testing.T) {
	var s settler
	for _, d := range []transport.Delivery{{Settler: &s}, {}} {
		if err := d.Ack(); err != nil {
			t.Error(err)
		}
		d.Nack(time.Second, "not now")
		d.Term("bad")
	}
	if want := (settler{"ack", "nack 1s not now", "term bad"}); !slices.Equal(s, want) {
		t.Errorf("the settler heard %q, want %q", s, want)
	}
}

func TestMessageOptions(t *testing.T) {
	var m transport.Message
	at := time.Unix(1, 2)
	for _, option := range []transport.MessageOption{
		transport.WithHeader("A", "1"), transport.WithHeader("a", "2"),
		transport.WithSourceTime(at), transport.WithContentType("text/csv"),
		transport.WithFile("a.csv"),
	} {
		option(&m)
	}
	if !slices.Equal(m.Header.Values("A"), []string{"1", "2"}) || m.Info.SourceTime != at || m.ContentType != "text/csv" || m.Filename != "a.csv" {
		t.Errorf("the options made %+v", m)
	}
}

func TestContextError(t *testing.T) {
	if err := transport.ContextError(context.Background()); err != nil {
		t.Errorf("a context that goes on: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err := transport.ContextError(ctx)
	if !errors.Is(err, context.Canceled) || errors.Is(err, transport.ErrTimeout) {
		t.Errorf("cancelled: %v", err)
	}
	ctx, cancel = context.WithDeadline(context.Background(), time.Unix(0, 0))
	defer cancel()
	err = transport.ContextError(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, transport.ErrTimeout) {
		t.Errorf("past its deadline: %v", err)
	}
}

func TestSendError(t *testing.T) {
	cause := fmt.Errorf("mailbox@example.com: %w", transport.ErrUndeliverable)
	for _, test := range []struct {
		outcome transport.Outcome
		want    string
	}{
		{transport.Permanent, "send /t: not sent: mailbox@example.com: undeliverable"},
		{transport.Temporary, "send /t: not sent, try again later: mailbox@example.com: undeliverable"},
		{transport.Unknown, "send /t: outcome unknown: mailbox@example.com: undeliverable"},
	} {
		err := fmt.Errorf("publish: %w", &transport.SendError{Name: "/t", Outcome: test.outcome, Code: 550, Err: cause})
		var sendErr *transport.SendError
		if !errors.As(err, &sendErr) || sendErr.Outcome != test.outcome || sendErr.Code != 550 {
			t.Errorf("errors.As finds %+v in %v", sendErr, err)
			continue
		}
		if got := sendErr.Error(); got != test.want {
			t.Errorf("the error says %q, want %q", got, test.want)
		}
		if !errors.Is(err, transport.ErrUndeliverable) || errors.Is(err, transport.ErrRefused) {
			t.Errorf("%v is not, or not only, ErrUndeliverable", err)
		}
	}
	for outcome, want := range map[transport.Outcome]string{
		transport.Temporary: "temporary", transport.Permanent: "permanent", transport.Unknown: "unknown", 0: "outcome(0)",
	} {
		if got := outcome.String(); got != want {
			t.Errorf("Outcome %d is %q, want %q", uint8(outcome), got, want)
		}
	}
}

func TestRemoteError(t *testing.T) {
	err := fmt.Errorf("call: %w", &transport.RemoteError{Code: 7, Text: "no such thing"})
	var remote *transport.RemoteError
	if !errors.As(err, &remote) || remote.Code != 7 {
		t.Errorf("errors.As finds %+v in %v", remote, err)
	}
	if got, want := err.Error(), "call: remote error 7: no such thing"; got != want {
		t.Errorf("the error says %q, want %q", got, want)
	}
}
