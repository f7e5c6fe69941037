package email

import (
	"context"
	"errors"
	"fmt"

	"github.com/postbus/postbus/transport"
)

// drain sends what has been collected, until there is nothing left. The collector has counted it as draining.
func (s *sender) drain() {
	defer s.collector.draining.Done()
	conn := <-s.slot
	defer func() { s.slot <- conn }()
	for {
		s.collector.linger(s.closed)
		b := s.collector.next()
		if b == nil {
			return
		}
		conn = s.servers.prefer(s.life, conn)
		if p := b.pieces[0]; p.call.state == alone {
			conn, _ = s.sendPiece(conn, p)
		} else {
			conn = s.sendLoad(conn, b)
		}
	}
}

// sendPiece sends the messages that a load has of a call one by one, under the call's context. It returns the connection
// to use next.
func (s *sender) sendPiece(conn *submission, p piece) (*submission, error) {
	ctx, cancel := s.bound(p.call.ctx)
	defer cancel(nil)
	conn, err := s.sendAll(ctx, conn, p.messages(), p.count)
	s.collector.settle([]piece{p}, err)
	return conn, err
}

// sendLoad sends a load as one mail. If that is refused, and it may be for one of the messages, they are sent
// one by one: the others are not to blame.
func (s *sender) sendLoad(conn *submission, b *load) *submission {
	ctx, cancel := s.bound(context.Background())
	defer cancel(nil)
	b.giveUp = func() { cancel(context.Canceled) }
	msgs := b.messages()
	mail, n, err := s.pack(msgs, conn)
	s.collector.takeOff(b, n)
	if err != nil {
		s.collector.settle(b.pieces, composeError(msgs[0], 0, err))
		return conn
	}
	var unsure bool
	conn, unsure, err = s.submit(ctx, conn, mail)
	switch {
	case err == nil:
		s.collector.settle(b.pieces, nil)
	case n > 1 && !unsure && isAboutOne(err):
		conn = s.sendSingly(conn, b)
	default:
		for _, p := range b.pieces {
			e := sendError("", 0, unsure, err)
			e.With = p.count - 1
			s.collector.settle([]piece{p}, e)
		}
	}
	return conn
}

// sendSingly sends the messages of a load one by one, until one is put off: the server may want nothing at the moment, so the
// others are put off untried.
func (s *sender) sendSingly(conn *submission, b *load) *submission {
	s.collector.breakUp(b)
	for i, p := range b.pieces {
		if !s.collector.isolate(p.call) {
			continue
		}
		var err error
		conn, err = s.sendPiece(conn, p)
		e, _ := errors.AsType[*transport.SendError](err)
		if e != nil && e.Outcome == transport.Temporary && p.call.ctx.Err() == nil {
			err = fmt.Errorf("email: not tried after an earlier message of the same mail: %w", e.Err)
			s.collector.settle(b.pieces[i+1:], sendError("", 0, false, err))
			break
		}
	}
	return conn
}

// isAboutOne reports whether a mail of several messages may have been refused for what one of them is, and not for who sends
// or receives it. Also a refusal for now may be: some filters put off what they do not like, for ever.
func isAboutOne(err error) bool {
	_, connection := errors.AsType[noConnection](err)
	_, envelope := errors.AsType[aboutEnvelope](err)
	_, some := errors.AsType[takenBySome](err)
	reply := replyIn(err)
	switch {
	case connection, some:
		return false
	case envelope:
		return errors.Is(err, transport.ErrTooLarge)
	}
	return isPermanent(err) || isNo(err) || reply != nil && reply.Code/100 == 4 && reply.Code != 421
}
