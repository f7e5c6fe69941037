package transporttest

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/postbus/postbus/transport"
)

var serviceCases = []testCase{
	{"RequestMetadata", nil, requestMetadata},
	{"ResponseMetadata", nil, responseMetadata},
	{"ErrorResponse", nil, errorResponse},
	{"AnswersOutOfOrder", nil, answersOutOfOrder},
	{"ClientsOfOneParticipant", nil, func(e *env) { a := e.open(); separateClients(e, a, a) }},
	{"ClientsOfTwoParticipants", nil, func(e *env) { separateClients(e, e.open(), e.open()) }},
	{"AnswerWithoutClientGID", nil, answerWithoutClientGID},
	{"AnswerForNobody", nil, answerForNobody},
	{"ConcurrentCalls", nil, concurrentCalls},
	{"NoResponder", func(f Features) bool { return f.NoResponder }, noResponder},
}

// client is the calling end of a service.
type client struct {
	*source
	*participant
	answers *inbox
}

func newClient(p *participant) *client {
	p.Helper()
	src := newSource()
	return &client{src, p, p.receive(transport.Interest{Kind: transport.Response, Client: src.gid})}
}

// request returns request number seq, which is to be sent as message number seq.
func (c *client) request(seq uint64, name, body string) *transport.Message {
	return &transport.Message{
		Kind: transport.Request, Name: name, Body: []byte(body),
		Info: transport.Info{PublisherGID: c.gid, Sequence: seq, ClientGID: c.gid, RequestSequence: seq},
	}
}

// call sends a request and returns its number.
func (c *client) call(name, body string) uint64 {
	c.Helper()
	seq := c.seq.Load() + 1
	return c.source.send(c.participant, c.request(seq, name, body))
}

// answer returns the answer to a request, as a server makes it.
func answer(request *transport.Message, body string) *transport.Message {
	return &transport.Message{
		Kind: transport.Response, Name: request.Name, Body: []byte(body),
		InReplyTo: request.ID,
		To:        []string{request.ReplyTo},
		Info:      transport.Info{ClientGID: request.Info.ClientGID, RequestSequence: request.Info.RequestSequence},
	}
}

func requestMetadata(e *env) {
	a, b := e.open(), e.open()
	service := b.service("/add")
	c := newClient(a)
	want := *c.request(1, "/add", "1+1")
	want.ContentType = "text/plain; charset=utf-8"
	want.Filename = "Grüße, \"1+1\".txt"
	want.Header = transport.Header{{Name: "Trace", Value: "ü"}}
	want.Deadline = time.Now().Add(time.Hour).Round(0)
	want.Info.SourceTime = time.Unix(1700000000, 987654321)
	want.ID = transport.NewID(c.gid, 1, "transporttest.example")
	sent := want
	c.send(a, &sent)
	got := service.next(0)
	e.compare("request", got, &want)
	if got.From == "" || got.ReplyTo == "" {
		e.Errorf("From is %q and ReplyTo is %q, neither may be empty", got.From, got.ReplyTo)
	}
	if caller, seq, ok := got.Caller(); !ok || caller != c.gid || seq != 1 {
		e.Errorf("the request's caller is %v, %d, %v, want %v, 1, true", caller, seq, ok, c.gid)
	}
}

func responseMetadata(e *env) {
	a, b := e.open(), e.open()
	service, c, server := b.service("/add"), newClient(a), newSource()
	c.call("/add", "1+1")
	request := service.next(0)
	want := *answer(request, "2")
	want.ContentType = "application/json"
	want.Header = transport.Header{{Name: "Trace", Value: "ü"}}
	want.Info.PublisherGID, want.Info.Sequence = server.gid, 1
	want.Info.SourceTime = time.Unix(1700000001, 987654321)
	want.ID = transport.NewID(server.gid, 1, "transporttest.example")
	sent := want
	server.send(b, &sent)
	got := c.answers.next(0)
	e.compare("response", got, &want)
	if caller, seq, ok := got.Caller(); !ok || caller != c.gid || seq != 1 {
		e.Errorf("the response's caller is %v, %d, %v, want %v, 1, true", caller, seq, ok, c.gid)
	}
	if got.From == "" {
		e.Errorf("From is empty")
	}
	settle(a, b)
	c.answers.exactly(1)
}

func errorResponse(e *env) {
	a, b := e.open(), e.open()
	service, c, server := b.service("/fail"), newClient(a), newSource()
	errs := []transport.RemoteError{
		{Code: 1, Text: "it failed"},
		{Code: -2147483648, Text: "ü, 世界\nsecond line\r\n.\n"},
		{Code: 0, Text: ""},
	}
	for i, want := range errs {
		seq := c.call("/fail", "x")
		m := answer(service.next(i), "")
		m.Kind, m.Error = transport.ErrorResponse, &want
		server.send(b, m)
		got := c.answers.next(i)
		if got.Kind != transport.ErrorResponse || got.Error == nil {
			e.Errorf("got a %v with error %v, want an error response with %+v", got.Kind, got.Error, want)
			continue
		}
		if *got.Error != want {
			e.Errorf("got error %+v, want %+v", *got.Error, want)
		}
		if len(got.Body) > 0 {
			e.Errorf("the error response has the body %s, want none", excerpt(got.Body))
		}
		if _, n, ok := got.Caller(); !ok || n != seq {
			e.Errorf("the error response is for request %d, %v, want %d", n, ok, seq)
		}
	}
}

func answersOutOfOrder(e *env) {
	a, b := e.open(), e.open()
	service, c, server := b.service("/echo"), newClient(a), newSource()
	const n = 5
	ids := make(map[uint64]string)
	for range n {
		seq := c.call("/echo", "x")
		ids[seq] = fmt.Sprint("answer ", seq)
	}
	for _, request := range slices.Backward(service.atLeast(n)) {
		server.send(b, answer(request, fmt.Sprint("answer ", request.Info.RequestSequence)))
	}
	c.answers.atLeast(n)
	settle(a, b)
	for _, m := range c.answers.exactly(n) {
		_, seq, ok := m.Caller()
		if want := ids[seq]; !ok || string(m.Body) != want {
			e.Errorf("the answer to request %d (%v) is %q, want %q", seq, ok, m.Body, want)
		}
		if gid, id, _ := m.InReplyTo.Origin(); gid != c.gid || id != seq {
			e.Errorf("the answer to request %d replies to %q", seq, m.InReplyTo)
		}
		delete(ids, seq) // a second answer to it has the wrong body
	}
}

// separateClients checks that clients on participants p1 and p2, which may be the same,
// get only answers of their own, although they number their requests alike.
func separateClients(e *env, p1, p2 *participant) {
	service, server := p1.service("/whoami"), newSource()
	clients := []*client{newClient(p1), newClient(p2)}
	const each = 4
	for range each {
		for _, c := range clients {
			c.call("/whoami", "x")
		}
	}
	for _, request := range service.atLeast(each * len(clients)) {
		server.send(p1, answer(request, request.Info.ClientGID.String()))
	}
	for _, c := range clients {
		c.answers.atLeast(each)
	}
	settle(p1, p2)
	for i, c := range clients {
		seen := make(map[uint64]bool)
		for _, m := range c.answers.exactly(each) {
			if string(m.Body) != c.gid.String() || m.Info.ClientGID != c.gid {
				e.Errorf("client %d, %v, got an answer for %v that says %q", i, c.gid, m.Info.ClientGID, m.Body)
			}
			seen[m.Info.RequestSequence] = true
		}
		if len(seen) != each {
			e.Errorf("client %d got answers to %d of its requests, want %d", i, len(seen), each)
		}
	}
}

// answerWithoutClientGID is answered as by a person: all there is is the ID.
func answerWithoutClientGID(e *env) {
	a, b := e.open(), e.open()
	service, c, other := b.service("/ask"), newClient(a), newClient(a)
	first, second := c.call("/ask", "?"), c.call("/ask", "??")
	service.atLeast(2)
	for _, request := range service.messages() {
		m := answer(request, fmt.Sprint(request.Info.RequestSequence))
		m.Info = transport.Info{}
		newSource().send(b, m)
	}
	c.answers.atLeast(2)
	settle(a, b)
	other.answers.exactly(0)
	var got []uint64
	for _, m := range c.answers.exactly(2) {
		client, seq, ok := m.Caller()
		if !ok || client != c.gid || string(m.Body) != fmt.Sprint(seq) {
			e.Errorf("the answer %q leads to request %d of client %v (%v)", m.Body, seq, client, ok)
		}
		got = append(got, seq)
	}
	slices.Sort(got)
	if want := []uint64{first, second}; !slices.Equal(got, want) {
		e.Errorf("got answers to requests %d, want %d", got, want)
	}
}

// answerForNobody sends an answer that comes too late, when its client has gone.
func answerForNobody(e *env) {
	a, b := e.open(), e.open()
	service, gone, here, server := b.service("/late"), newClient(a), newClient(a), newSource()
	gone.call("/late", "x")
	request := service.next(0)
	gone.answers.stop()
	server.send(b, answer(request, "too late"))
	settle(a, b)
	gone.answers.exactly(0)
	here.answers.exactly(0)
}

func concurrentCalls(e *env) {
	a, b := e.open(), e.open()
	service, server := b.service("/echo"), newSource()
	clients := []*client{newClient(a), newClient(a), newClient(b)}
	const each = 20
	var wg sync.WaitGroup
	for _, c := range clients {
		for seq := uint64(1); seq <= each; seq++ {
			wg.Go(func() {
				m := c.request(seq, "/echo", fmt.Sprintf("%v %d", c.gid, seq))
				if err := c.lend(c.context(), m); err != nil {
					e.Errorf("call: %v", err)
				}
			})
		}
	}
	wg.Wait()
	for _, request := range service.atLeast(each * len(clients)) {
		wg.Go(func() { server.send(b, answer(request, string(request.Body))) })
	}
	wg.Wait()
	for _, c := range clients {
		c.answers.atLeast(each)
	}
	settle(a, b)
	for _, c := range clients {
		seen := make(map[uint64]bool)
		for _, m := range c.answers.exactly(each) {
			_, seq, _ := m.Caller()
			if want := fmt.Sprintf("%v %d", c.gid, seq); string(m.Body) != want {
				e.Errorf("the answer to request %d of client %v is %q", seq, c.gid, m.Body)
			}
			seen[seq] = true
		}
		if len(seen) != each {
			e.Errorf("client %v got answers to %d of its requests, want %d", c.gid, len(seen), each)
		}
	}
}

func noResponder(e *env) {
	a, b := e.open(), e.open()
	c := newClient(a)
	boxes := []*inbox{b.service("/other")}
	if !e.Features.ListenersRespond {
		boxes = append(boxes, b.topic("/service"))
	}
	c.refused("before there is a server")
	service := b.service("/service")
	c.call("/service", "x")
	service.next(0)
	service.stop()
	settle(a, b) // stop does not wait for the network
	c.refused("when the server has stopped")
	service = b.service("/service")
	c.call("/service", "x")
	service.next(0)
	b.close()
	c.refused("when the server's node has closed")
	for _, box := range boxes {
		box.exactly(0)
	}
}

// refused calls a service that has no server.
func (c *client) refused(when string) {
	c.Helper()
	before := len(c.answers.messages())
	seq := c.seq.Load() + 1
	err := c.lend(c.context(), c.number(c.request(seq, "/service", "x")))
	if err == nil {
		m := c.answers.next(before)
		if _, number, ok := m.Caller(); !ok || number != seq || m.Kind != transport.Undeliverable {
			c.Fatalf("call %d %s: got a %v for call %d", seq, when, m.Kind, number)
		}
		err = m.Bounce("/service")
	}
	c.wantError("call "+when, err, transport.ErrNoResponder)
	c.wantSendError("call "+when, err, transport.Permanent)
}
