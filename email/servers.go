package email

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/postbus/postbus/internal/backoff"
)

const (
	// trustIdle is how long a connection may have been idle and be used without
	// asking whether it is still there. That a server has closed it is noticed at any time;
	// this is for those that a router or firewall has forgotten.
	trustIdle = 10 * time.Second
	// probePatience is how long an idle connection may take to answer before another one
	// is made at the same time; the first that is ready is used.
	probePatience = 200 * time.Millisecond
	// headStart is how long a server may take to be ready before the next is tried as
	// well.
	headStart = time.Second
	// plainFor is how long a server that says it takes commands in advance, and comes to grief over them, is
	// sent none.
	plainFor = time.Hour
	// avoidFor is how long a server that could not be reached, or not in time, is tried
	// after the others; and how often it is looked, while messages go out over another one,
	// whether it is back.
	avoidFor = time.Minute
)

// servers are where mail can be submitted, the preferred one first, and what is known of
// them. It may be used by one goroutine at a time, besides lookBack's.
type servers struct {
	list   []account
	logger *slog.Logger
	// dial opens a network connection; it is account.dial, but for tests.
	dial func(*account, context.Context) (link, error)

	mu    sync.Mutex
	avoid []time.Time // until when each comes after those that are not avoided
	// stumbles counts the mails in a row that came to grief over commands sent in advance; plain is until when
	// there are none.
	stumbles []int
	plain    []time.Time

	// While no server can be reached, err says why, since failed attempts in a row. Nobody
	// tries again before then: who wants to send until then gets err at once.
	err    error
	failed int
	then   time.Time

	used   int              // the rank of the server last used, for the log
	looked time.Time        // when lookBack last began
	looks  sync.WaitGroup   // of lookBack's goroutine
	better chan *submission // what it has found; capacity one
}

// attempt is a way to get a connection.
type attempt struct {
	rank int // of the server, or -1 for the connection that there was
	// headStart is how long to wait for it before making the next attempt as well.
	headStart time.Duration
	run       func(context.Context) (*submission, error)
}

// connect returns a connection that is ready to be used: old, if there is one and it answers, or a
// new one to the first server in order that can be reached. It waits for no server that
// does not answer while there is another one that does.
func (s *servers) connect(ctx context.Context, old *submission) (*submission, error) {
	if old == nil && time.Now().Before(s.then) {
		return nil, s.err
	}
	attempts := s.attempts()
	if old != nil {
		attempts = slices.Insert(attempts, 0, attempt{-1, probePatience, old.probe})
	}
	conn, n, errs := race(ctx, attempts)
	if conn != nil {
		for _, late := range attempts[:n] {
			s.shun(late.rank)
		}
		s.use(conn)
		return conn, nil
	}
	if old != nil {
		errs = errs[1:] // its own says only that it was old
	}
	err := together(errs)
	if ctx.Err() == nil {
		s.fail(err)
	} else if err == nil {
		err = ended(ctx)
	}
	return nil, err
}

// attempts returns those to connect to each server.
func (s *servers) attempts() []attempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	var first, last []attempt
	for rank := range s.list {
		a := attempt{rank, headStart, func(ctx context.Context) (*submission, error) { return s.open(ctx, rank) }}
		if time.Now().Before(s.avoid[rank]) {
			last = append(last, a)
		} else {
			first = append(first, a)
		}
	}
	return append(first, last...)
}

// open connects to a server and logs in.
func (s *servers) open(ctx context.Context, rank int) (*submission, error) {
	a := &s.list[rank]
	limited, cancel := bounded(ctx, connectTimeout)
	defer cancel()
	link, err := s.dial(a, limited)
	if err != nil {
		if limited.Err() != nil {
			err = ended(limited)
		}
		return nil, a.explain(fmt.Sprintf("email: %s connection", a.server.scheme.protocol), err)
	}
	conn, err := a.startSubmission(limited, link)
	if err != nil {
		return nil, err
	}
	conn.rank = rank
	s.mu.Lock()
	defer s.mu.Unlock()
	conn.plain = s.stumbles[rank] > 0 || time.Now().Before(s.plain[rank])
	return conn, nil
}

// learn notes how a mail fared on a server that says it takes commands in advance. After one that came to
// grief the next goes without; if that helps twice in a row, all do for a while.
func (s *servers) learn(conn *submission, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	stumbles := &s.stumbles[conn.rank]
	switch {
	case !conn.pipelining, conn.calledOff:
	case conn.stumbled:
		*stumbles++
	case !conn.plain:
		*stumbles = 0
	case err != nil:
	case *stumbles == 1:
		conn.plain = false
	case *stumbles > 1:
		*stumbles, s.plain[conn.rank] = 0, time.Now().Add(plainFor)
		s.logger.Warn("email: the server does not take commands in advance (PIPELINING) as it says; sending goes on without", "server", conn.server)
	}
}

// probe asks the server whether the connection is still there.
func (c *submission) probe(ctx context.Context) (*submission, error) {
	limited, cancel := bounded(ctx, commandTimeout)
	defer cancel()
	if err := guard(limited, c.bare, c.noop); err != nil {
		c.drop()
		return nil, err
	}
	c.lastUsed = time.Now()
	return c, nil
}

// race makes attempts until one succeeds: the next when one has failed, or has had its head
// start. It returns the connection and which attempt made it, or the error of each attempt that was
// made; it ends the other attempts and waits for them.
func race(ctx context.Context, attempts []attempt) (conn *submission, won int, errs []error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		n    int
		conn *submission
		err  error
	}
	results := make(chan result)
	errs = make([]error, len(attempts))
	started, running := 0, 0
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-next.C:
			if started == len(attempts) || ctx.Err() != nil {
				break
			}
			n, a := started, attempts[started]
			go func() {
				conn, err := a.run(ctx)
				results <- result{n, conn, err}
			}()
			next.Reset(a.headStart)
			started, running = started+1, running+1
			continue
		case r := <-results:
			running--
			errs[r.n] = r.err
			_, refused := errors.AsType[loginRefused](r.err)
			switch {
			case r.err == nil && conn != nil:
				r.conn.drop()
			case r.err == nil:
				conn, won = r.conn, r.n
				cancel()
			case refused:
				started = len(attempts) // the same account would be refused elsewhere, too
			default:
				next.Reset(0)
			}
		}
		if running == 0 && (conn != nil || started == len(attempts) || ctx.Err() != nil) {
			return conn, won, errs
		}
	}
}

// together makes one error of those of several servers. It is temporary if one of them is.
func together(errs []error) error {
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	switch len(errs) {
	case 0:
		return nil
	case 1:
		return errs[0]
	}
	text, cause := "", errs[0]
	for i, err := range errs {
		if i > 0 {
			text += "; "
		}
		text += err.Error()
		if isPermanent(cause) && !isPermanent(err) {
			cause = err
		}
	}
	return several{text, cause}
}

// several is the error of several servers.
type several struct {
	text  string
	cause error
}

func (e several) Error() string { return e.text }
func (e several) Unwrap() error { return e.cause }

// use notes that conn is in use from now on, and tells the log if it leads elsewhere than
// the last one.
func (s *servers) use(conn *submission) {
	if conn.rank == s.used {
		return
	}
	level := slog.LevelWarn
	if conn.rank < s.used {
		level = slog.LevelInfo
	}
	s.logger.Log(context.Background(), level, "email: messages are sent over another server", "server", conn.server, "was", s.list[s.used].server.String())
	s.used, s.looked = conn.rank, time.Now()
}

// shun notes that a server does not work at the moment.
func (s *servers) shun(rank int) {
	if rank < 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.avoid[rank] = time.Now().Add(avoidFor)
}

// fail notes that no server works at the moment. All who want to send share that
// knowledge for a while: as long as the shortest time after which one of them alone would
// try again, and at most backoff.Least.
func (s *servers) fail(err error) {
	s.failed = min(s.failed+1, 10)
	pause := min(backoff.First/2<<(s.failed-1), backoff.Least)
	if _, refused := errors.AsType[loginRefused](err); refused {
		pause = backoff.Longest // more tries get the account locked
	}
	s.err, s.then = err, time.Now().Add(pause)
}

// work notes that a server works.
func (s *servers) work() { s.err, s.failed, s.then = nil, 0, time.Time{} }

// prefer returns the connection to go on with. While conn leads to another server than the first
// it looks now and then, in the background, whether one of those before is back; what it has
// found is used from the next time on.
func (s *servers) prefer(ctx context.Context, conn *submission) *submission {
	select {
	case better := <-s.better:
		if conn == nil || better.rank < conn.rank {
			conn.drop()
			s.use(better)
			return better
		}
		better.drop()
	default:
	}
	if conn != nil && conn.rank > 0 && time.Since(s.looked) >= avoidFor {
		s.looked = time.Now()
		s.looks.Go(func() { s.lookBack(ctx, conn.rank) })
	}
	return conn
}

// lookBack looks for a server before one.
func (s *servers) lookBack(ctx context.Context, rank int) {
	earlier := slices.DeleteFunc(s.attempts(), func(a attempt) bool { return a.rank >= rank })
	conn, _, _ := race(ctx, earlier)
	if conn == nil {
		for _, a := range earlier {
			s.shun(a.rank)
		}
		return
	}
	select {
	case s.better <- conn:
	default:
		conn.drop() // there is one already
	}
}

// close ends lookBack, whose context has ended.
func (s *servers) close() {
	s.looks.Wait()
	select {
	case conn := <-s.better:
		conn.drop()
	default:
	}
}

// newServers returns the servers in order of preference; there is at least one.
func newServers(list []account, logger *slog.Logger) servers {
	return servers{list: list, logger: logger, dial: (*account).dial, better: make(chan *submission, 1),
		avoid: make([]time.Time, len(list)), plain: make([]time.Time, len(list)), stumbles: make([]int, len(list))}
}
