package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/postbus/postbus/internal/bench/raw"
)

// Mail is the floor of mail: package raw against the server and account that postbus uses. Where the account
// has no inbox to look into, because a node listens, it is the transaction alone: a mail has arrived when it
// is taken.
type Mail struct {
	Account raw.Account
	// Word is in the Subject of each mail.
	Word string
	// Write, if set, writes the mails instead. It needs an account without an inbox.
	Write func(publisher int, number uint64, body []byte) ([]byte, error)
}

var _ System = Mail{}

// depth is how many mails of a publisher may be on their way to a server that takes several
// in one flight, when they are published as fast as it takes them.
const depth = 16

// Where throughput counts, a FETCH that has found fewer than enough mails is followed by a pause: looking
// without one would take the time that the server needs to deliver.
const (
	enough = 64
	pause  = time.Millisecond
)

// Open implements System. Each publisher has a connection; all subscribers share one, whose mails
// are given to all of them.
func (m Mail) Open(ctx context.Context, load Load) (Session, error) {
	s := &mailSession{word: m.Word, write: m.Write, burst: load.Rate == 0 && !load.Lockstep, ready: make([][]Arrival, load.Subscribers)}
	for range load.Subscribers {
		s.taken = append(s.taken, newMemoryQueue())
	}
	if err := s.open(ctx, m.Account, load); err != nil {
		return nil, errors.Join(err, s.Close(ctx))
	}
	return s, nil
}

func (s *mailSession) open(ctx context.Context, account raw.Account, load Load) (err error) {
	inbox, err := raw.Parse(account.IMAP, "imaps")
	if err != nil {
		return err
	}
	if inbox.Protocol == "imap" {
		if s.fetcher, err = raw.OpenFetcher(ctx, account); err != nil {
			return err
		}
	}
	for range load.Publishers {
		out, err := raw.OpenSubmitter(ctx, account)
		if err != nil {
			return err
		}
		p := &mailPublisher{Submitter: out}
		if s.fetcher != nil && out.Deep() && s.burst {
			p.depth = depth
		}
		s.publishers = append(s.publishers, p)
	}
	return nil
}

type mailSession struct {
	word       string
	write      func(publisher int, number uint64, body []byte) ([]byte, error) // may be nil
	publishers []*mailPublisher
	burst      bool           // throughput counts, not latency
	fetcher    *raw.Fetcher   // nil without an inbox
	taken      []*memoryQueue // of each subscriber, without an inbox

	mu    sync.Mutex
	ready [][]Arrival // for each subscriber
}

// mailPublisher is a connection for sending.
type mailPublisher struct {
	*raw.Submitter
	mu    sync.Mutex
	mail  []byte
	depth int // of mails on their way, or 0 to wait for each
	open  int
}

// Publish implements Session.
func (s *mailSession) Publish(_ context.Context, publisher int, number uint64, body []byte) error {
	p := s.publishers[publisher]
	p.mu.Lock()
	defer p.mu.Unlock()
	sent := time.Now()
	if s.write == nil {
		p.mail = appendMail(p.mail[:0], s.word, publisher, number, body)
	} else if mail, err := s.write(publisher, number, body); err != nil {
		return err
	} else {
		p.mail = mail
	}
	if p.depth == 0 {
		if err := p.Submit(p.mail); err != nil || s.fetcher != nil {
			return err
		}
		for _, q := range s.taken {
			q.push(memoryItem{publisher: publisher, number: number, sent: sent.UnixNano(), body: body})
		}
		return nil
	}
	for p.open >= p.depth {
		if err := p.Finish(); err != nil {
			return err
		}
		p.open--
	}
	p.open++
	return p.Start(p.mail)
}

// lineLength is that of the lines of a body (RFC 5322 section 2.1.1 allows 998).
const lineLength = 900

// appendMail writes the smallest mail that still is one, with what a subscriber has to know in its
// Message-ID.
func appendMail(b []byte, word string, publisher int, number uint64, body []byte) []byte {
	now := time.Now()
	b = append(b, "Date: "...)
	b = now.AppendFormat(b, time.RFC1123Z)
	b = fmt.Appendf(b, "\r\nFrom: <bench@localhost.test>\r\nSubject: floor %s\r\nMessage-ID: <%d.%d.%d.%d@floor>\r\n\r\n",
		word, publisher, number, now.UnixNano(), len(body))
	for len(body) > 0 {
		n := min(len(body), lineLength)
		b = append(append(b, body[:n]...), '\r', '\n')
		body = body[n:]
	}
	return b
}

// readMail finds what appendMail has written.
func (s *mailSession) readMail(mail []byte) (a Arrival, ours bool, err error) {
	_, rest, found := bytes.Cut(mail, []byte("Subject: floor "+s.word+"\r\n"))
	if !found {
		return Arrival{}, false, nil
	}
	_, rest, _ = bytes.Cut(rest, []byte("Message-ID: <"))
	id, _, found := bytes.Cut(rest, []byte("@floor>"))
	parts := bytes.Split(id, []byte("."))
	if !found || len(parts) != 4 {
		return Arrival{}, false, fmt.Errorf("the floor's mail has come back changed: %.300q", mail)
	}
	var numbers [4]int64
	for i, p := range parts {
		if numbers[i], err = strconv.ParseInt(string(p), 10, 64); err != nil {
			return Arrival{}, false, err
		}
	}
	_, body, _ := bytes.Cut(rest, []byte("\r\n\r\n"))
	if size := int64(len(bytes.ReplaceAll(body, []byte("\r\n"), nil))); size != numbers[3] {
		return Arrival{}, false, fmt.Errorf("the floor's mail has %d bytes, not %d", size, numbers[3])
	}
	return Arrival{Publisher: int(numbers[0]), Number: uint64(numbers[1]), Bytes: int(numbers[3]), Sent: time.Unix(0, numbers[2])}, true, nil
}

// Next implements Session. Whoever has nothing fetches, for all.
func (s *mailSession) Next(ctx context.Context, subscriber int) (Arrival, error) {
	if s.fetcher == nil {
		item, err := s.taken[subscriber].pop(ctx)
		return Arrival{Publisher: item.publisher, Number: item.number, Bytes: len(item.body), Sent: time.Unix(0, item.sent)}, err
	}
	for {
		a, ok, err := s.next(ctx, subscriber)
		if ok || err != nil {
			return a, err
		}
	}
}

func (s *mailSession) next(ctx context.Context, subscriber int) (a Arrival, ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ready := s.ready[subscriber]; len(ready) > 0 {
		s.ready[subscriber] = ready[1:]
		return ready[0], true, nil
	}
	found := 0
	err = s.fetcher.Fetch(ctx, func(mail []byte) error {
		a, ours, err := s.readMail(mail)
		if err != nil || !ours {
			return err
		}
		found++
		for i := range s.ready {
			s.ready[i] = append(s.ready[i], a)
		}
		return nil
	})
	if err == nil && s.burst && found < enough {
		err = rest(ctx, pause)
	}
	return Arrival{}, false, err
}

// Close implements Session.
func (s *mailSession) Close(context.Context) error {
	var errs []error
	for _, p := range s.publishers {
		for ; p.open > 0; p.open-- {
			errs = append(errs, p.Finish())
		}
		errs = append(errs, p.Close())
	}
	if s.fetcher != nil {
		errs = append(errs, s.fetcher.Close())
	}
	return errors.Join(errs...)
}
