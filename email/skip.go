package email

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/emersion/go-imap/v2"
)

// SkipReason says why a mail in the inbox was not received as a message.
type SkipReason string

const (
	// ForeignMail is mail of people and programs that has nothing to do with postbus,
	// as far as this node can see.
	ForeignMail SkipReason = "foreign"
	// AutomaticMail is mail that programs send on their own: out-of-office notes, mailing
	// lists, bulk mail. It is never taken for an answer.
	AutomaticMail SkipReason = "automatic"
	// MalformedMail carries the metadata of a message, but is damaged or contradicts
	// itself.
	MalformedMail SkipReason = "malformed"
	// LargeMail is a message above the limit (Config.MaxBody) that somebody wanted.
	LargeMail SkipReason = "too large"
	// UnfetchableMail is what the server announces and then does not send, or not as it
	// was asked to.
	UnfetchableMail SkipReason = "not fetched"
	// BatchMessage is one message of a mail of several that is damaged, above the limit, or not there
	// though the mail says so. The others are received, so the mail is neither marked nor moved.
	BatchMessage SkipReason = "message of a batch"
)

// Skipped returns how many mails, or messages of mails with several, have been skipped since Open, by reason. Messages that
// nobody here wants and reports of mail servers are not skipped, nor is what is passed
// over while nobody has stated an interest. The map is the caller's, and nil at first.
func (c *Carrier) Skipped() map[SkipReason]uint64 { return c.receiver.skips.read() }

const (
	// sweepSize is how many mails are marked, moved or deleted with one command. Between
	// two of them the inbox is looked at.
	sweepSize = 200
	// sweepTries is how many connections may break over one such command before the
	// mails are left alone.
	sweepTries = 3
)

// skips counts the mails that are skipped, and marks or moves them.
type skips struct {
	// flag or folder, or neither, says what to do with them.
	flag, folder string

	mu     sync.Mutex
	counts map[SkipReason]uint64

	chore // marking or moving them
}

// chore is something that is done to mails in the inbox, in portions between looks. It belongs to the
// receiver's loop.
type chore struct {
	// apply does it. mails and done say in the log to which mails, and what.
	apply       func(context.Context, *session, imap.UIDSet) error
	mails, done string

	waiting []imap.UID // to which it is to be done
	tries   int        // for the first of them
	failing bool       // the last time it failed
}

// add counts a mail. It returns how many have been skipped so far.
func (s *skips) add(uid imap.UID, reason SkipReason) (total uint64) {
	if (s.flag != "" || s.folder != "") && reason != BatchMessage {
		s.waiting = append(s.waiting, uid)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.counts == nil {
		s.counts = make(map[SkipReason]uint64)
	}
	s.counts[reason]++
	for _, n := range s.counts {
		total += n
	}
	return total
}

func (s *skips) read() map[SkipReason]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.counts)
}

// sort marks or moves mails.
func (s *skips) sort(ctx context.Context, session *session, uids imap.UIDSet) error {
	if s.flag != "" {
		return session.flag(ctx, uids, imap.Flag(s.flag))
	}
	return session.move(ctx, uids, s.folder)
}

// drop forgets the first of the mails that wait.
func (c *chore) drop(n int) {
	c.tries = 0
	if c.waiting = c.waiting[n:]; len(c.waiting) == 0 {
		c.waiting = nil
	}
}

// skip counts and logs a mail that is not received. Mail of others is normal.
func (r *receiver) skip(uid imap.UID, reason SkipReason, err error) {
	level := slog.LevelWarn
	if reason == ForeignMail || reason == AutomaticMail {
		level = slog.LevelDebug
	}
	total := r.skips.add(uid, reason)
	r.logger.Log(context.Background(), level, "email: mail skipped", "mailbox", r.address, "uid", uid, "reason", string(reason), "skipped so far", total, "error", err)
}

// sweep does a chore for some of the mails that wait for it. That it can't be done is
// logged, once until it can, and costs no more than that; an error is that of a
// connection that is lost.
func (r *receiver) sweep(ctx context.Context, c *chore) error {
	n := min(len(c.waiting), sweepSize)
	err := c.apply(ctx, r.session, imap.UIDSetNum(c.waiting[:n]...))
	lost := err != nil && !isRefusal(err)
	if c.tries++; lost && (c.tries < sweepTries || ctx.Err() != nil) {
		return err
	}
	switch {
	case err != nil && !c.failing:
		r.logger.Warn("email: "+c.mails+" can't be "+c.done+"; they stay as they are", "mailbox", r.address, "mails", n, "error", err)
	case err == nil && c.failing:
		r.logger.Info("email: "+c.mails+" can be "+c.done+" again", "mailbox", r.address)
	}
	c.failing = err != nil
	c.drop(n)
	if lost {
		return err
	}
	return nil
}

var errNoKeyword = errors.New("the server keeps no such keyword in the inbox")

// isRefusal reports whether err leaves the connection as good as before.
func isRefusal(err error) bool {
	reply, ok := errors.AsType[*imap.Error](err)
	return ok && reply.Type != imap.StatusResponseTypeBye || errors.Is(err, errNoKeyword)
}

// flag adds a keyword to mails.
func (s *session) flag(ctx context.Context, uids imap.UIDSet, keyword imap.Flag) error {
	if s.permanent != nil && !slices.ContainsFunc(s.permanent, func(f imap.Flag) bool {
		return f == imap.FlagWildcard || strings.EqualFold(string(f), string(keyword))
	}) {
		return fmt.Errorf("%w: %s", errNoKeyword, keyword)
	}
	return s.command(ctx, func() error { return s.store(uids, keyword) })
}

// move moves mails to a folder, and creates it if it is missing.
func (s *session) move(ctx context.Context, uids imap.UIDSet, folder string) error {
	return s.command(ctx, func() error {
		err := s.tryMove(uids, folder)
		reply, ok := errors.AsType[*imap.Error](err)
		if !ok || reply.Code != imap.ResponseCodeTryCreate && reply.Code != imap.ResponseCodeNonExistent {
			return err
		}
		created := s.client.Create(folder, nil).Wait() // or another node has just done it
		if err = s.tryMove(uids, folder); err != nil && created != nil {
			return fmt.Errorf("creating %q: %w", folder, created)
		}
		return err
	})
}

// tryMove moves mails to a folder that is there. go-imap's own way without MOVE
// (RFC 6851) does not wait for the COPY, and would delete what was not copied.
func (s *session) tryMove(uids imap.UIDSet, folder string) error {
	if s.client.Caps().Has(imap.CapMove) {
		_, err := s.client.Move(uids, folder).Wait()
		return err
	}
	if _, err := s.client.Copy(uids, folder).Wait(); err != nil {
		return err
	}
	return s.remove(uids)
}

// remove deletes mails; without UIDPLUS (RFC 4315) it only marks them as deleted.
func (s *session) remove(uids imap.UIDSet) error {
	if err := s.store(uids, imap.FlagDeleted); err != nil {
		return err
	}
	if !s.client.Caps().Has(imap.CapUIDPlus) {
		return nil // EXPUNGE would also remove what somebody else has marked
	}
	return s.client.UIDExpunge(uids).Close()
}

func (s *session) store(uids imap.UIDSet, flag imap.Flag) error {
	return s.client.Store(uids, &imap.StoreFlags{Op: imap.StoreFlagsAdd, Silent: true, Flags: []imap.Flag{flag}}, nil).Close()
}

// validKeyword checks that s can be an IMAP keyword (an atom of RFC 9051 section 9).
func validKeyword(s string) error {
	if s == "" || len(s) > 100 || strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c >= 0x7f || strings.ContainsRune(`(){%*"\]`, c) }) {
		return fmt.Errorf("%q is not an IMAP keyword: 1 to 100 characters of ASCII without blanks, and none of (){%%*\"\\]", s)
	}
	return nil
}

// validFolder checks the name of the folder for skipped mails.
func validFolder(s string) error {
	if s == "" || len(s) > 200 || strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f || c == '*' || c == '%' }) || strings.EqualFold(s, "INBOX") {
		return fmt.Errorf("%q is not the name of a folder other than the inbox", s)
	}
	return nil
}
