package nats

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/postbus/postbus/transport"
)

// monitor makes the carrier's servers visible as the endpoints of one micro service, by answering the questions
// of its protocol (ADR-32 of NATS): ping, info and stats, for all services, those of the name, and this one.
//
// The answers are those of package micro. Its own service is not used: it can't end one endpoint and keep the
// others, and it takes a request for finished when its handler has returned, while our servers answer later, so it
// would neither see errors nor how long an answer took.
type monitor struct {
	carrier *Carrier
	id      string
	started time.Time

	mu        sync.RWMutex
	endpoints map[uint64]*endpoint
	last      uint64 // number given to an endpoint
	subs      []*nats.Subscription
}

// endpoint is an interest in requests.
type endpoint struct {
	number               uint64
	name, subject, group string

	requests, answers, errors atomic.Int64
	processing                atomic.Int64 // nanoseconds
	lastError                 atomic.Pointer[transport.RemoteError]
}

func newMonitor(c *Carrier) monitor {
	return monitor{carrier: c, id: transport.NewGID().String(), started: time.Now().UTC(), endpoints: make(map[uint64]*endpoint)}
}

// add adds an endpoint. With the first one the service appears.
func (m *monitor) add(interest transport.Interest) (*endpoint, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.endpoints) == 0 {
		if err := m.begin(); err != nil {
			return nil, err
		}
	}
	m.last++
	e := &endpoint{number: m.last, name: endpointName(interest.Name), subject: Subject(interest.Name), group: queueOf(interest)}
	m.endpoints[e.number] = e
	return e, nil
}

// remove removes an endpoint. With the last one the service disappears.
func (m *monitor) remove(e *endpoint) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.endpoints, e.number)
	if len(m.endpoints) == 0 {
		m.end()
	}
}

// begin begins to listen to questions. m.mu is held.
func (m *monitor) begin() error {
	name := m.carrier.config.Name
	for verb, answer := range map[micro.Verb]func() any{
		micro.PingVerb:  func() any { return micro.Ping{ServiceIdentity: m.identity(), Type: micro.PingResponseType} },
		micro.InfoVerb:  func() any { return m.info() },
		micro.StatsVerb: func() any { return m.stats() },
	} {
		for _, whom := range [][2]string{{"", ""}, {name, ""}, {name, m.id}} {
			subject, err := micro.ControlSubject(verb, whom[0], whom[1])
			if err == nil {
				var sub *nats.Subscription
				if sub, err = m.carrier.listen(subject, "", func(msg *nats.Msg) { m.answer(msg, answer()) }); err == nil {
					m.subs = append(m.subs, sub)
					continue
				}
			}
			m.end()
			return fmt.Errorf("monitoring of the service %s: %w", name, err)
		}
	}
	return nil
}

// end ends that. m.mu is held.
func (m *monitor) end() {
	for _, sub := range m.subs {
		_ = sub.Unsubscribe() // it fails when there is nothing left to end
	}
	m.subs = nil
}

// answer answers a question.
func (m *monitor) answer(msg *nats.Msg, answer any) {
	text, err := json.Marshal(answer)
	if err == nil && canAnswer(msg.Reply) {
		err = msg.Respond(text)
	}
	if err != nil {
		m.carrier.logger.Debug("nats: a question about the service could not be answered", "subject", msg.Subject, "error", err)
	}
}

func (m *monitor) identity() micro.ServiceIdentity {
	c := &m.carrier.config
	return micro.ServiceIdentity{Name: c.Name, ID: m.id, Version: c.Version, Metadata: map[string]string{}}
}

func (m *monitor) info() micro.Info {
	info := micro.Info{
		ServiceIdentity: m.identity(), Type: micro.InfoResponseType,
		Description: m.carrier.config.Description,
		Endpoints:   []micro.EndpointInfo{},
	}
	for _, e := range m.list() {
		info.Endpoints = append(info.Endpoints, micro.EndpointInfo{Name: e.name, Subject: e.subject, QueueGroup: e.group, Metadata: map[string]string{}})
	}
	return info
}

func (m *monitor) stats() micro.Stats {
	stats := micro.Stats{
		ServiceIdentity: m.identity(), Type: micro.StatsResponseType,
		Started:   m.started,
		Endpoints: []*micro.EndpointStats{},
	}
	for _, e := range m.list() {
		stats.Endpoints = append(stats.Endpoints, e.stats())
	}
	return stats
}

// list returns the endpoints in the order in which they were added.
func (m *monitor) list() []*endpoint {
	m.mu.RLock()
	defer m.mu.RUnlock()
	all := make([]*endpoint, 0, len(m.endpoints))
	for _, e := range m.endpoints {
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b *endpoint) int { return cmp.Compare(a.number, b.number) })
	return all
}

func (e *endpoint) stats() *micro.EndpointStats {
	s := &micro.EndpointStats{
		Name: e.name, Subject: e.subject, QueueGroup: e.group,
		NumRequests:    int(e.requests.Load()),
		NumErrors:      int(e.errors.Load()),
		ProcessingTime: time.Duration(e.processing.Load()),
	}
	if answers := e.answers.Load(); answers > 0 {
		s.AverageProcessingTime = s.ProcessingTime / time.Duration(answers)
	}
	if err := e.lastError.Load(); err != nil {
		s.LastError = fmt.Sprintf("%d:%s", err.Code, err.Text)
	}
	return s
}

// answered notes that the answer to a request has been sent.
func (m *monitor) answered(to replyAddress, answer *transport.Message) {
	m.mu.RLock()
	e := m.endpoints[to.endpoint]
	m.mu.RUnlock()
	// An answer that an outbox has kept may be to a request that another process received.
	if e == nil || to.received.Before(m.started) {
		return
	}
	e.answers.Add(1)
	e.processing.Add(int64(max(0, time.Since(to.received))))
	if answer.Error != nil {
		e.errors.Add(1)
		e.lastError.Store(answer.Error)
	}
}

// endpointName returns the name of the endpoint for a name or pattern, in the letters that
// those of micro services may have.
func endpointName(name string) string {
	name = strings.Map(func(r rune) rune {
		if serviceName.MatchString(string(r)) {
			return r
		}
		return '_'
	}, name)
	if trimmed := strings.Trim(name, "_"); trimmed != "" {
		return trimmed
	}
	return name
}
