package nats

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/postbus/postbus/transport"
)

// inbox is where answers come: one subscription for all requests of the carrier, whose reply
// subjects are "address.client.number".
type inbox struct {
	carrier    *Carrier
	address    string
	dispatcher transport.Dispatcher // of interests in answers, and in what could not be delivered
	opened     atomic.Bool          // there is sub
	slow       atomic.Bool          // answers have been dropped, and it has not caught up since

	reading atomic.Int32 // how many answers wait for their bodies
	full    atomic.Bool  // one has been dropped because there were too many, and since then there was never none

	dispatching sync.Mutex // held while an answer is delivered

	mu    sync.Mutex
	sub   *nats.Subscription // nil until it is needed
	names map[transport.GID]name
}

// name is that of the service which a client calls: answers of other programs do not say it.
type name struct {
	text   string
	count  int  // of the interests
	warned bool // that a stream keeps it
}

// open begins the subscription, unless that has been done. It needs no round trip: the server hears of it before
// it gets the first request.
func (b *inbox) open() error {
	if b.opened.Load() {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sub != nil {
		return nil
	}
	if b.carrier.closed.Load() {
		return b.carrier.closedError()
	}
	var err error
	if b.sub, err = b.carrier.listen(b.address+".>", "", b.handle); err != nil {
		return fmt.Errorf("nats: %w", err)
	}
	b.opened.Store(true)
	return nil
}

// close ends the subscription. b.carrier.closed is set.
func (b *inbox) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sub != nil {
		b.carrier.dropped.Add(droppedOf(b.sub))
		_ = b.sub.Unsubscribe() // it fails when there is nothing left to end
	}
}

// dropped returns how many answers have been dropped.
func (b *inbox) dropped() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sub == nil {
		return 0
	}
	return droppedOf(b.sub)
}

// noteSlow logs that answers are being dropped, if that is what a subscription is for.
func (b *inbox) noteSlow(sub *nats.Subscription) {
	b.mu.Lock()
	ours := b.sub == sub
	b.mu.Unlock()
	if ours && !b.slow.Swap(true) {
		b.carrier.logger.Warn("nats: answers are dropped: the process is too slow to take them")
	}
}

// noteCaughtUp logs how many answers have been dropped, when no more are.
func (b *inbox) noteCaughtUp() {
	if waiting, _, err := b.sub.Pending(); err == nil && waiting <= 1 && b.slow.Swap(false) {
		b.carrier.logger.Info("nats: answers are taken again", "dropped", b.dropped())
	}
}

// receive states an interest in the answers to a client, or in what comes back.
func (b *inbox) receive(interest transport.Interest, deliver func(transport.Delivery)) (stop func(), err error) {
	if interest.Kind == transport.Undeliverable {
		return b.dispatcher.Add(interest, deliver), nil // nothing but requests comes back
	}
	if err := b.open(); err != nil {
		return nil, err
	}
	b.addName(interest, 1)
	remove := b.dispatcher.Add(interest, deliver)
	return sync.OnceFunc(func() {
		remove()
		b.addName(interest, -1)
	}), nil
}

func (b *inbox) addName(interest transport.Interest, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	known := b.names[interest.Client]
	known.text, known.count = interest.Name, known.count+n
	if known.count > 0 {
		b.names[interest.Client] = known
	} else {
		delete(b.names, interest.Client)
	}
}

// isKnown reports whether there is a client, which may want an answer.
func (b *inbox) isKnown(client transport.GID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, ok := b.names[client]
	return ok
}

func (b *inbox) nameOf(client transport.GID) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.names[client].text
}

// subject returns the reply subject of a request.
func (b *inbox) subject(m *transport.Message) string {
	var room [128]byte // mostly enough
	text := append(room[:0], b.address...)
	text = append(text, '.')
	text, _ = m.Info.ClientGID.AppendText(text) // it never fails
	text = append(text, '.')
	return string(strconv.AppendUint(text, m.Info.RequestSequence, 10))
}

// caller returns the request whose reply subject this is.
func (b *inbox) caller(subject string) (client transport.GID, number uint64, ok bool) {
	rest, ok := strings.CutPrefix(subject, b.address+".")
	if !ok {
		return transport.GID{}, 0, false
	}
	gid, digits, _ := strings.Cut(rest, ".")
	client, err := transport.ParseGID(gid)
	if err != nil {
		return transport.GID{}, 0, false
	}
	number, err = strconv.ParseUint(digits, 10, 64)
	return client, number, err == nil
}

// handle delivers an answer. Calls come one at a time.
func (b *inbox) handle(msg *nats.Msg) {
	client, number, ok := b.caller(msg.Subject)
	if !ok {
		return
	}
	if b.slow.Load() {
		b.noteCaughtUp()
	}
	if stream := confirmingStream(msg); stream != "" {
		b.noteStream(client, stream)
		return
	}
	m, ours := b.message(msg, client, number)
	// An answer that names another request than it was sent to is nobody's.
	if gid, n, ok := m.Caller(); !ok || gid != client || n != number {
		return
	}
	m.Info.ReceivedTime = time.Now()
	if m.Info.SourceTime.IsZero() {
		m.Info.SourceTime = m.Info.ReceivedTime
	}
	if m.Name == "" {
		m.Name = b.nameOf(client)
	}
	if ours && len(msg.Header[headerObject]) > 0 {
		b.readBody(msg.Header, m, client)
		return
	}
	b.dispatch(m)
}

// maxReading is how many answers may wait for their bodies.
const maxReading = 1 << 10

// readBody delivers an answer to a client, if there is such a client, when its body has been read. Other answers do not wait for that.
func (b *inbox) readBody(header nats.Header, m *transport.Message, client transport.GID) {
	if !b.isKnown(client) {
		return
	}
	if n := b.reading.Add(1); n > maxReading {
		b.reading.Add(-1)
		b.carrier.dropped.Add(1)
		if !b.full.Swap(true) {
			b.carrier.logger.Warn("nats: answers are dropped: the bodies of too many are being read")
		}
		return
	}
	begun := b.carrier.work(func(ctx context.Context) {
		defer func() {
			if b.reading.Add(-1) == 0 {
				b.full.Store(false)
			}
		}()
		switch err := b.carrier.bodyOf(ctx, header, m); {
		case err == nil:
			b.dispatch(m)
		case ctx.Err() == nil: // else Close has begun
			b.carrier.logger.Warn("nats: an answer is lost that can't be read", "name", m.Name, "message_id", m.ID.String(), "error", err)
		}
	})
	if !begun {
		b.reading.Add(-1)
	}
}

// confirmingStream returns the stream whose confirmation has come in the place of an answer, or "": a stream has no header to tell it
// by.
func confirmingStream(msg *nats.Msg) string {
	const most = 512 // bytes
	if len(msg.Header) > 0 || len(msg.Data) > most || !bytes.HasPrefix(msg.Data, []byte("{")) {
		return ""
	}
	var ack struct {
		Stream    string          `json:"stream"`
		Sequence  uint64          `json:"seq"`
		Duplicate bool            `json:"duplicate"`
		Domain    string          `json:"domain"`
		Value     string          `json:"val"`
		Batch     string          `json:"batch"`
		Count     int             `json:"count"`
		Error     json.RawMessage `json:"error"`
	}
	d := json.NewDecoder(bytes.NewReader(msg.Data))
	d.DisallowUnknownFields()
	if d.Decode(&ack) != nil || ack.Sequence == 0 && len(ack.Error) == 0 {
		return ""
	}
	return ack.Stream
}

// noteStream logs that a stream of others keeps the requests of a client, once.
func (b *inbox) noteStream(client transport.GID, stream string) {
	b.mu.Lock()
	known, ok := b.names[client]
	warn := ok && !known.warned
	if warn {
		known.warned = true
		b.names[client] = known
	}
	b.mu.Unlock()
	if warn {
		b.carrier.logger.Warn("nats: the subject belongs to a stream that this configuration does not list: its word is no answer", "subject", Subject(known.text), "stream", stream)
	}
}

// dispatch delivers an answer. Calls may come at the same time.
func (b *inbox) dispatch(m *transport.Message) {
	b.dispatching.Lock()
	defer b.dispatching.Unlock()
	b.dispatcher.Dispatch(transport.Delivery{Message: m})
}

// message returns what has come in answer to a request: all that comes here is an answer, or the word of the server that
// there was nobody to give one. It reports whether it is one of postbus.
func (b *inbox) message(msg *nats.Msg, client transport.GID, number uint64) (m *transport.Message, ours bool) {
	if len(msg.Data) == 0 && msg.Header.Get(headerStatus) == noResponders {
		return &transport.Message{
			Kind:      transport.Undeliverable,
			InReplyTo: transport.NewID(client, number, b.address),
			Info:      transport.Info{ClientGID: client, RequestSequence: number},
			Error:     &transport.RemoteError{Code: transport.CodeNoResponder, Text: "nobody serves it"},
		}, false
	}
	m, ours = read(msg.Header, msg.Data)
	if m.Kind != transport.ErrorResponse {
		m.Kind = transport.Response
	}
	if !ours {
		m.InReplyTo = transport.ID{}
		readMicroError(m, msg.Header)
	}
	if m.Info.ClientGID.IsZero() && m.InReplyTo.IsZero() {
		m.Info.ClientGID, m.Info.RequestSequence = client, number
	}
	return m, ours
}

// noResponders is the status of the server's word that nobody has subscribed to the subject of a request.
const noResponders = "503"
