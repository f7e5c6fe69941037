package email

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/postbus/postbus/email/wire"
	"github.com/postbus/postbus/transport"
)

// compose encodes a message as a mail to those who receive it.
func (s *sender) compose(m *transport.Message) (outgoing, error) {
	envelope, recipients, err := s.address(m)
	if err != nil {
		return outgoing{}, err
	}
	raw, eightBit, err := s.compat.encode(m, envelope)
	return outgoing{s.from, recipients, raw, eightBit}, err
}

// address finds out who receives a message.
func (s *sender) address(m *transport.Message) (envelope wire.Envelope, recipients []string, err error) {
	envelope = wire.Envelope{From: s.from, To: s.to, Cc: s.cc}
	all := slices.Concat(s.to, s.cc, s.bcc)
	if len(m.To) > 0 {
		all = make([]string, len(m.To))
		for i, to := range m.To {
			// It may come from a mail: a reply address that is none, or worse.
			if all[i], err = parseAddress(to); err != nil {
				return envelope, nil, fmt.Errorf("recipient: %w: %w", transport.ErrUndeliverable, err)
			}
		}
		envelope.To, envelope.Cc = all, nil
	}
	if len(all) == 0 && s.appends {
		all = []string{s.from} // so that the mail is addressed to somebody
		envelope.To = all
	}
	if len(all) == 0 {
		return envelope, nil, errors.New("no recipients: set email.recipients.to in the configuration, or a route for this name")
	}
	seen := make(map[string]bool)
	recipients = slices.DeleteFunc(slices.Clone(all), func(a string) bool {
		key := strings.ToLower(a)
		defer func() { seen[key] = true }()
		return seen[key]
	})
	return envelope, recipients, nil
}

// pack makes one mail of as many of the messages, to the same recipients, as fit, and says how many these are. An
// error is about the first. conn, which may be nil, is where the mail is to go.
func (s *sender) pack(msgs []*transport.Message, conn *submission) (mail outgoing, n int, err error) {
	if len(msgs) > 1 {
		mail, n = s.packBatch(msgs, conn)
	}
	if n <= 1 { // one alone is an ordinary mail
		mail, err = s.compose(msgs[0])
		return mail, 1, err
	}
	return mail, n, nil
}

// perMessage is the bytes that a message takes in a mail of several, besides its body: about what its metadata do.
const perMessage = 150

// packBatch makes a batch of as many of the messages as fit; if that is at most one, there is no mail.
func (s *sender) packBatch(msgs []*transport.Message, conn *submission) (mail outgoing, n int) {
	envelope, recipients, err := s.address(msgs[0])
	if err != nil {
		return mail, 0
	}
	limit := s.collector.limits.Bytes
	if conn != nil && conn.maxSize > 0 {
		limit = min(limit, conn.maxSize)
	}
	_, host, _ := strings.Cut(msgs[0].ID.String(), "@")
	id := transport.NewID(s.batchGID, s.batches+1, host)
	batch, err := wire.NewBatch(id, envelope, limit)
	if err != nil {
		return mail, 0
	}
	size := 0
	for _, m := range msgs {
		size += perMessage + len(m.Body)*4/3
	}
	batch.Grow(min(size, limit))
	for n < len(msgs) && batch.Add(msgs[n]) == nil {
		n++
	}
	if n <= 1 {
		return mail, n
	}
	s.batches++
	ids := make([]transport.ID, n)
	for i, m := range msgs[:n] {
		ids[i] = m.ID
	}
	s.sent.add(id, ids)
	return outgoing{from: s.from, recipients: recipients, raw: batch.Mail()}, n
}

// travelsAlone reports whether a message has to be a mail of its own: one for rmw_email, or an answer to a
// person.
func (s *sender) travelsAlone(m *transport.Message) bool {
	answer := m.Kind == transport.Response || m.Kind == transport.ErrorResponse
	return answer && m.Info.ClientGID.IsZero() || s.compat.forRMW(m)
}
