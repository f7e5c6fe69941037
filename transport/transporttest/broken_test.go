package transporttest

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/transport"
)

// broken is a carrier with one fault, which its functions put in. They may be nil.
type broken struct {
	transport.Carrier
	send    func(inner transport.Carrier, ctx context.Context, msgs []*transport.Message) error
	change  func(*transport.Message) // on the way out
	deliver func(inner func(transport.Delivery), d transport.Delivery)
	receive func(inner transport.Carrier, in transport.Interest, deliver func(transport.Delivery)) (func(), error)
	close   func(inner transport.Carrier, ctx context.Context) error
	address func(inner transport.Carrier) string
}

func (b *broken) Send(ctx context.Context, msgs ...*transport.Message) error {
	if b.change != nil {
		for _, m := range msgs {
			b.change(m)
		}
	}
	if b.send != nil {
		return b.send(b.Carrier, ctx, msgs)
	}
	return b.Carrier.Send(ctx, msgs...)
}

func (b *broken) Receive(in transport.Interest, deliver func(transport.Delivery)) (func(), error) {
	if b.deliver != nil {
		inner := deliver
		deliver = func(d transport.Delivery) { b.deliver(inner, d) }
	}
	if b.receive != nil {
		return b.receive(b.Carrier, in, deliver)
	}
	return b.Carrier.Receive(in, deliver)
}

func (b *broken) Close(ctx context.Context) error {
	if b.close != nil {
		return b.close(b.Carrier, ctx)
	}
	return b.Carrier.Close(ctx)
}

func (b *broken) Address() string {
	if b.address != nil {
		return b.address(b.Carrier)
	}
	return b.Carrier.Address()
}

// onArrival makes a fault that changes received messages.
func onArrival(change func(*transport.Message)) func() broken {
	return func() broken {
		return broken{deliver: func(inner func(transport.Delivery), d transport.Delivery) {
			m := *d.Message
			change(&m)
			inner(transport.Delivery{Message: &m})
		}}
	}
}

// onBody makes a fault that changes received bodies.
func onBody(change func(body []byte) []byte) func() broken {
	return onArrival(func(m *transport.Message) { m.Body = change(m.Body) })
}

// fault is a way to be broken, with the tests that must find out. The carriers of one
// test share what new sets up.
type fault struct {
	name  string
	tests string
	new   func() broken
}

var faults = []fault{
	{"nothing arrives", "Payloads Header NobodyListens/ok", func() broken {
		return broken{send: func(transport.Carrier, context.Context, []*transport.Message) error { return nil }}
	}},
	{"every tenth message is lost", "ThousandMessages ConcurrentSenders InterestsComeAndGo AnswersOutOfOrder/ok", func() broken {
		return broken{send: func(inner transport.Carrier, ctx context.Context, msgs []*transport.Message) error {
			if msgs[0].Info.Sequence%10 == 9 {
				return nil
			}
			return inner.Send(ctx, msgs...)
		}}
	}},
	{"messages come twice", "TopicReachesEveryInterest ResponseMetadata AnswersOutOfOrder Payloads Names Patterns ConcurrentCalls", func() broken {
		return broken{deliver: func(inner func(transport.Delivery), d transport.Delivery) { inner(d); inner(d) }}
	}},
	{"some messages come twice", "ThousandMessages ConcurrentSenders", func() broken {
		return broken{deliver: func(inner func(transport.Delivery), d transport.Delivery) {
			inner(d)
			if d.Message.Info.Sequence == 7 {
				inner(d)
			}
		}}
	}},
	{"messages overtake", "ThousandMessages ConcurrentSenders", overtaking},
	{"deliver runs concurrently", "ThousandMessages", func() broken {
		return broken{deliver: func(inner func(transport.Delivery), d transport.Delivery) { go inner(d) }}
	}},

	{"LF becomes CRLF", "Payloads", onBody(func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n")) })},
	{"CRLF becomes LF", "Payloads", onBody(func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")) })},
	{"the end is trimmed", "Payloads", onBody(func(b []byte) []byte { return bytes.TrimRight(b, "\r\n") })},
	{"blanks are trimmed", "Payloads", onBody(bytes.TrimSpace)},
	{"cut at NUL", "Payloads", onBody(func(b []byte) []byte { before, _, _ := bytes.Cut(b, []byte{0}); return before })},
	{"UTF-8 is made valid", "Payloads", onBody(func(b []byte) []byte { return bytes.ToValidUTF8(b, []byte("?")) })},
	{"dots are stuffed", "Payloads", onBody(func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\n."), []byte("\n..")) })},
	{"From is quoted", "Payloads", onBody(func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\nFrom"), []byte("\n>From")) })},
	{"the body is kept, not copied", "Payloads TopicReachesEveryInterest", keepingBodies},
	{"the body is scribbled on", "Payloads", func() broken {
		return broken{send: func(inner transport.Carrier, ctx context.Context, msgs []*transport.Message) error {
			lent := msgs[0].Body
			err := inner.Send(ctx, msgs...)
			if len(lent) > 0 {
				lent[0]++
			}
			return err
		}}
	}},

	{"the source time has microseconds", "TopicMetadata RequestMetadata ResponseMetadata", onArrival(func(m *transport.Message) {
		m.Info.SourceTime = m.Info.SourceTime.Truncate(time.Microsecond)
	})},
	{"no received time", "TopicMetadata", onArrival(func(m *transport.Message) { m.Info.ReceivedTime = time.Time{} })},
	{"no publisher GID", "TopicMetadata", onArrival(func(m *transport.Message) { m.Info.PublisherGID = transport.GID{} })},
	{"sequence of 32 bits", "TopicMetadata", onArrival(func(m *transport.Message) { m.Info.Sequence = uint64(uint32(m.Info.Sequence)) })},
	{"no client GID", "RequestMetadata", onArrival(func(m *transport.Message) { m.Info.ClientGID = transport.GID{} })},
	{"no request sequence", "RequestMetadata", onArrival(func(m *transport.Message) { m.Info.RequestSequence = 0 })},
	{"no deadline", "TopicMetadata RequestMetadata", onArrival(func(m *transport.Message) { m.Deadline = time.Time{} })},
	{"a deadline is made up", "TopicWithoutMetadata", onArrival(func(m *transport.Message) { m.Deadline = time.Unix(0, 0) })},
	{"a content type is made up", "TopicWithoutMetadata", onArrival(func(m *transport.Message) {
		if m.ContentType == "" {
			m.ContentType = "application/octet-stream"
		}
	})},
	{"no content type", "TopicMetadata", onArrival(func(m *transport.Message) { m.ContentType = "" })},
	{"no file name", "TopicMetadata RequestMetadata", onArrival(func(m *transport.Message) { m.Filename = "" })},
	{"a file name is made up", "TopicWithoutMetadata ResponseMetadata", onArrival(func(m *transport.Message) {
		if m.Filename == "" {
			m.Filename = "body"
		}
	})},
	{"no header", "Header TopicMetadata", onArrival(func(m *transport.Message) { m.Header = nil })},
	{"a header field is added", "TopicWithoutMetadata", onArrival(func(m *transport.Message) { m.Header.Add("Via", "x") })},
	{"header values of ASCII", "Header", onArrival(func(m *transport.Message) {
		m.Header = changeValues(m.Header, func(v string) string { return strings.ReplaceAll(v, "ü", "u") })
	})},
	{"blanks of headers run together", "Header", onArrival(func(m *transport.Message) {
		m.Header = changeValues(m.Header, func(v string) string { return strings.Join(strings.Fields(v), " ") })
	})},
	{"another ID", "TopicMetadata RequestMetadata", onArrival(func(m *transport.Message) { m.ID = transport.ParseID("x@y") })},
	{"no From", "TopicMetadata RequestMetadata ResponseMetadata", onArrival(func(m *transport.Message) { m.From = "" })},
	{"no ReplyTo", "RequestMetadata", onArrival(func(m *transport.Message) { m.ReplyTo = "" })},
	{"no InReplyTo", "ResponseMetadata AnswersOutOfOrder", onArrival(func(m *transport.Message) { m.InReplyTo = transport.ID{} })},
	{"errors without text", "ErrorResponse", onArrival(func(m *transport.Message) {
		if m.Error != nil {
			m.Error = &transport.RemoteError{Code: m.Error.Code}
		}
	})},
	{"errors as bodies too", "ErrorResponse", onArrival(func(m *transport.Message) {
		if m.Error != nil {
			m.Body = []byte(m.Error.Text)
		}
	})},

	{"names in lower case", "Names", onArrival(func(m *transport.Message) { m.Name = strings.ToLower(m.Name) })},
	{"names match in any case", "Names", func() broken {
		return broken{change: func(m *transport.Message) { m.Name = strings.ToLower(m.Name) }}
	}},
	{"a star stands for anything", "Patterns", func() broken {
		return broken{receive: func(inner transport.Carrier, in transport.Interest, deliver func(transport.Delivery)) (func(), error) {
			in.Name = strings.ReplaceAll(in.Name, "*", ">")
			if i := strings.IndexByte(in.Name, '>'); i >= 0 {
				in.Name = in.Name[:i+1]
			}
			return inner.Receive(in, deliver)
		}}
	}},
	{"topics and services are one", "TopicAndServiceAreApart", func() broken {
		return broken{receive: func(inner transport.Carrier, in transport.Interest, deliver func(transport.Delivery)) (func(), error) {
			if in.Kind == transport.TopicMessage {
				also := in
				also.Kind = transport.Request
				if _, err := inner.Receive(also, deliver); err != nil {
					return nil, err
				}
			}
			return inner.Receive(in, deliver)
		}}
	}},

	{"answers go to the first client", "ClientsOfOneParticipant ClientsOfTwoParticipants ConcurrentCalls", mixingAnswers},
	{"answers by people are lost", "AnswerWithoutClientGID", func() broken {
		return broken{send: func(inner transport.Carrier, ctx context.Context, msgs []*transport.Message) error {
			if msgs[0].Kind == transport.Response && msgs[0].Info.ClientGID.IsZero() {
				return nil
			}
			return inner.Send(ctx, msgs...)
		}}
	}},
	{"late answers are errors", "AnswerForNobody", func() broken {
		return broken{send: func(inner transport.Carrier, ctx context.Context, msgs []*transport.Message) error {
			if msgs[0].Kind == transport.Response {
				return errors.New("no such client")
			}
			return inner.Send(ctx, msgs...)
		}}
	}},
	{"requests for nobody are taken", "NoResponder", func() broken {
		return broken{send: func(inner transport.Carrier, ctx context.Context, msgs []*transport.Message) error {
			if err := inner.Send(ctx, msgs...); !errors.Is(err, transport.ErrNoResponder) {
				return err
			}
			return nil
		}}
	}},
	{"topics need listeners", "NobodyListens", func() broken {
		return broken{send: func(transport.Carrier, context.Context, []*transport.Message) error {
			return transport.ErrUndeliverable
		}}
	}},
	{"only the first of several is sent", "SendSeveral", func() broken {
		return broken{send: func(inner transport.Carrier, ctx context.Context, msgs []*transport.Message) error {
			return inner.Send(ctx, msgs[:min(1, len(msgs))]...)
		}}
	}},
	{"several are sent backwards", "SendSeveral", func() broken {
		return broken{send: func(inner transport.Carrier, ctx context.Context, msgs []*transport.Message) error {
			for i := range msgs {
				if err := inner.Send(ctx, msgs[len(msgs)-1-i]); err != nil {
					return err
				}
			}
			return nil
		}}
	}},
	{"no limit for bodies", "LargestBody", func() broken { return broken{} }},
	{"no address", "Address", func() broken { return broken{address: func(transport.Carrier) string { return "" }} }},
	{"another address each time", "Address", func() broken {
		return broken{address: func(transport.Carrier) string { return transport.NewGID().String() }}
	}},

	{"the context is not looked at", "ContextEnded", func() broken {
		return broken{send: func(inner transport.Carrier, _ context.Context, msgs []*transport.Message) error {
			return inner.Send(context.Background(), msgs...)
		}}
	}},
	{"context errors are bare", "ContextEnded", func() broken {
		return broken{send: func(inner transport.Carrier, ctx context.Context, msgs []*transport.Message) error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return inner.Send(ctx, msgs...)
		}}
	}},
	{"stop does nothing", "StopEndsDelivery AnswerForNobody", func() broken {
		return broken{receive: func(inner transport.Carrier, in transport.Interest, deliver func(transport.Delivery)) (func(), error) {
			_, err := inner.Receive(in, deliver)
			return func() {}, err
		}}
	}},
	{"stop stops all", "StopEndsDelivery", stoppingAll},
	{"any interest is accepted", "UnsupportedInterest", func() broken {
		return broken{receive: func(inner transport.Carrier, in transport.Interest, deliver func(transport.Delivery)) (func(), error) {
			in.Kind = transport.TopicMessage
			return inner.Receive(in, deliver)
		}}
	}},
	{"close does nothing", "UseAfterClose CloseWaitsForDelivery CloseGivesUpWithContext", func() broken {
		return broken{close: func(transport.Carrier, context.Context) error { return nil }}
	}},
	{"close does not wait", "CloseWaitsForDelivery", func() broken {
		return broken{close: func(inner transport.Carrier, ctx context.Context) error { go inner.Close(ctx); return nil }}
	}},
	{"close waits for ever", "CloseGivesUpWithContext", func() broken {
		return broken{close: func(inner transport.Carrier, _ context.Context) error { return inner.Close(context.Background()) }}
	}},
	{"the second close fails", "CloseTwice", closingOnce},
	{"close leaves a goroutine", "TopicMetadata Address ParticipantLeaves", func() broken {
		return broken{close: func(inner transport.Carrier, ctx context.Context) error {
			go func(end <-chan struct{}) { <-end }(leaksEnd)
			return inner.Close(ctx)
		}}
	}},
}

// leaksEnd is closed to end the goroutines that a fault leaves behind.
var leaksEnd chan struct{}

func changeValues(h transport.Header, change func(string) string) transport.Header {
	changed := make(transport.Header, len(h))
	for i, f := range h {
		changed[i] = transport.Field{Name: f.Name, Value: change(f.Value)}
	}
	return changed
}

// overtaking holds back every tenth message until the next has been sent.
func overtaking() broken {
	var mu sync.Mutex
	held := make(map[transport.GID]*transport.Message)
	return broken{send: func(inner transport.Carrier, ctx context.Context, msgs []*transport.Message) error {
		m := msgs[0]
		mu.Lock()
		before := held[m.Info.PublisherGID]
		delete(held, m.Info.PublisherGID)
		if m.Info.Sequence%10 == 3 {
			m.Body = bytes.Clone(m.Body)
			held[m.Info.PublisherGID] = m
			mu.Unlock()
			return nil
		}
		mu.Unlock()
		err := inner.Send(ctx, m)
		if before != nil {
			err = errors.Join(err, inner.Send(ctx, before))
		}
		return err
	}}
}

// keepingBodies delivers the bodies that were only lent.
func keepingBodies() broken {
	var lent sync.Map // of []byte by *transport.Message
	return broken{
		change: func(m *transport.Message) { lent.Store(m, m.Body) },
		deliver: func(inner func(transport.Delivery), d transport.Delivery) {
			body, _ := lent.Load(d.Message)
			m := *d.Message
			m.Body = body.([]byte)
			inner(transport.Delivery{Message: &m})
		},
	}
}

// mixingAnswers makes the first client that calls the receiver of all answers.
func mixingAnswers() broken {
	var mu sync.Mutex
	var first transport.GID
	return broken{change: func(m *transport.Message) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case m.Kind == transport.Request && first.IsZero():
			first = m.Info.ClientGID
		case m.Kind == transport.Response:
			m.Info.ClientGID = first
			m.InReplyTo = transport.NewID(first, m.Info.RequestSequence, "broken")
		}
	}}
}

// stoppingAll stops all interests of the test with the first.
func stoppingAll() broken {
	var mu sync.Mutex
	var stops []func()
	return broken{receive: func(inner transport.Carrier, in transport.Interest, deliver func(transport.Delivery)) (func(), error) {
		stop, err := inner.Receive(in, deliver)
		mu.Lock()
		defer mu.Unlock()
		stops = append(stops, stop)
		return func() {
			mu.Lock()
			defer mu.Unlock()
			for _, stop := range stops {
				stop()
			}
		}, err
	}}
}

// closingOnce fails when a carrier is closed again.
func closingOnce() broken {
	var closed sync.Map
	return broken{close: func(inner transport.Carrier, ctx context.Context) error {
		if _, again := closed.LoadOrStore(inner, true); again {
			return errors.New("closed twice")
		}
		return inner.Close(ctx)
	}}
}

// harness opens carriers on one bus, all with the same fault.
func harness(fault broken) Harness {
	bus := &intraprocess.Bus{History: 100}
	return Harness{
		Open: func(testing.TB) transport.Carrier {
			b := fault
			b.Carrier = bus.Attach()
			return &b
		},
		Features: Features{NoResponder: true, Ordered: true, Durable: true, Group: true, Last: true},
	}
}
