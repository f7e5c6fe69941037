package nats

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// confirmations are what streams answer to what is published to them: at one subscription for the whole carrier, whose
// subjects end with a number for each message.
type confirmations struct {
	carrier *Carrier

	mu      sync.Mutex
	sub     *nats.Subscription // nil until it is needed
	prefix  string             // of the subjects
	number  uint64             // of the last message
	awaited map[uint64]*confirmation
}

// errElsewhere says that the subject of a message does not belong to the stream of the configuration any more.
var errElsewhere = errors.New("another stream has taken the message")

// confirmation is the answer of a stream about a message.
type confirmation struct {
	stream *stream
	number uint64
	done   bool // and the flight has been told
	err    error
	flight *flight
}

// expect returns the subject at which a stream is to answer about the next message of a flight.
func (c *confirmations) expect(s *stream, f *flight) (*confirmation, string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sub == nil {
		inbox := c.carrier.conn.NewInbox()
		sub, err := c.carrier.listen(inbox+".*", "", c.handle)
		if err != nil {
			return nil, "", err
		}
		c.sub, c.prefix, c.awaited = sub, inbox+".", make(map[uint64]*confirmation)
	}
	c.number++
	a := &confirmation{stream: s, number: c.number, flight: f}
	c.awaited[a.number] = a
	return a, c.prefix + strconv.FormatUint(a.number, 36), nil
}

// handle notes what a stream says.
func (c *confirmations) handle(m *nats.Msg) {
	n, err := strconv.ParseUint(m.Subject[strings.LastIndexByte(m.Subject, '.')+1:], 36, 64)
	if err != nil {
		return
	}
	by, err := readConfirmation(m)
	if errors.Is(err, jetstream.ErrInvalidJSAck) {
		return // a program without postbus has subscribed to the name, and answers what has a reply subject
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.awaited[n]; err == nil && a != nil && a.stream.Name != by {
		a.stream.ready.Store(false) // what differs is found when it is used next
		err = fmt.Errorf("%w: it is %s", errElsewhere, by)
	}
	c.tell(n, err)
}

// tell tells a flight. c.mu is held.
func (c *confirmations) tell(n uint64, err error) {
	if a := c.awaited[n]; a != nil {
		delete(c.awaited, n)
		a.done, a.err = true, err
		signal(a.flight.news)
	}
}

// forget ends the wait for confirmations.
func (c *confirmations) forget(all []*confirmation) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range all {
		delete(c.awaited, a.number)
	}
}

// disconnected says that what has not been confirmed will not be any more.
func (c *confirmations) disconnected() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n := range c.awaited {
		c.tell(n, nats.ErrDisconnected)
	}
}

// confirmed takes out those that have been confirmed, from the first on, until one has failed.
func (c *confirmations) confirmed(all []*confirmation) (left []*confirmation, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(all) > 0 && all[0].done && all[0].err == nil {
		all = all[1:]
	}
	if len(all) > 0 && all[0].done {
		err = all[0].err
	}
	return all, err
}

// readConfirmation returns the name of the stream that has taken a message, or the error of one that has not, or
// jetstream.ErrInvalidJSAck if no stream says this.
func readConfirmation(m *nats.Msg) (stream string, err error) {
	if len(m.Data) == 0 {
		if m.Header.Get(headerStatus) == noResponders {
			return "", jetstream.ErrNoStreamResponse
		}
		return "", jetstream.ErrInvalidJSAck
	}
	if rest, ok := bytes.CutPrefix(m.Data, []byte(`{"stream":"`)); ok { // as always; its name has no quotes
		if name, rest, _ := bytes.Cut(rest, []byte{'"'}); bytes.HasPrefix(rest, []byte(`,"seq":`)) || bytes.HasPrefix(rest, []byte(`,"domain":`)) {
			return string(name), nil
		}
	}
	var answer struct {
		Error    *jetstream.APIError `json:"error"`
		Stream   string              `json:"stream"`
		Sequence uint64              `json:"seq"`
	}
	err = json.Unmarshal(m.Data, &answer)
	switch {
	case err == nil && answer.Error != nil && answer.Error.ErrorCode != 0:
		return "", answer.Error
	case err != nil || answer.Error != nil || answer.Stream == "" || answer.Sequence == 0:
		return "", jetstream.ErrInvalidJSAck
	}
	return answer.Stream, nil
}
