package service

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/postbus/postbus/transport"
)

const (
	// sharedTimeout is how long an access to the shared cache may take. What takes longer has failed: who
	// has a cache is in a hurry.
	sharedTimeout = 500 * time.Millisecond
	// sharedPart is the part of a caller's time that is waited for the shared cache: the rest is for the handler.
	sharedPart = 4
	// sharedPause is how long the shared cache is left alone after it has failed, so that it does not make
	// every request wait.
	sharedPause = 5 * time.Second
	// sharedAccesses is how many accesses are under way at most. While there are so many, results are not shared.
	sharedAccesses = 128
)

// sharedResults are the results that servers in several processes share. Each access has a goroutine of its own: how
// the store does is no matter of how much time a caller has, and an answer does not wait until its result is shared.
type sharedResults struct {
	store transport.Cache
	name  string // of the service
	ttl   time.Duration
	log   *slog.Logger
	start func(func()) bool // calls what it is given in a goroutine that the Close of the node waits for
	room  chan struct{}     // holds one for each access under way

	mu      sync.Mutex
	failing bool
	again   time.Time // when it is tried again, while it is failing
}

// newSharedResults returns those of a server, or nil if its carrier has no place for them.
func newSharedResults(s *Server, ttl time.Duration) *sharedResults {
	store := sharedCache(s.node.Carrier())
	if store == nil {
		return nil
	}
	return &sharedResults{
		store: store,
		name:  s.name,
		ttl:   ttl,
		log:   s.node.Logger(),
		start: func(f func()) bool { return s.inbox.AtOnce(f) },
		room:  make(chan struct{}, sharedAccesses),
	}
}

// sharedCache returns what a carrier, or one behind it, has for the purpose, or nil.
func sharedCache(carrier transport.Carrier) transport.Cache {
	for {
		if caching, ok := carrier.(transport.CachingCarrier); ok {
			return caching.Cache()
		}
		front, ok := carrier.(interface{ Unwrap() transport.Carrier })
		if !ok {
			return nil
		}
		carrier = front.Unwrap()
	}
}

// get returns the result of a key if there is one that is not too old. It is soon back: a caller with little time
// does not wait for all that the store may take.
func (s *sharedResults) get(ctx context.Context, key cacheKey) (result, bool) {
	if s == nil || s.resting() {
		return result{}, false
	}
	if deadline, ok := ctx.Deadline(); ok {
		if part := time.Until(deadline) / sharedPart; part < sharedTimeout {
			limited, cancel := context.WithTimeout(ctx, part)
			defer cancel()
			ctx = limited
		}
	}
	var value []byte
	found := s.access(func(ctx context.Context) (err error) {
		value, err = s.store.Get(ctx, key.String())
		return err
	})
	select {
	case err := <-found:
		if err != nil {
			return result{}, false
		}
	case <-ctx.Done():
		return result{}, false
	}
	made, ok := decodeResult(value)
	now := time.Now()
	if made.made.After(now) {
		made.made = now // by another clock
	}
	if !ok || now.Sub(made.made) >= s.ttl {
		return result{}, false
	}
	return made, true
}

// put has a result shared soon.
func (s *sharedResults) put(key cacheKey, made result) {
	if s == nil || s.resting() {
		return
	}
	s.access(func(ctx context.Context) error {
		return s.store.Put(ctx, key.String(), made.encode(), s.ttl)
	})
}

// errNoAccess says that the store has not been asked.
var errNoAccess = errors.New("too many accesses to the shared results, or the server is closed")

// access begins an access to the store, and returns what gets its error.
func (s *sharedResults) access(f func(context.Context) error) <-chan error {
	ended := make(chan error, 1)
	select {
	case s.room <- struct{}{}:
	default:
		ended <- errNoAccess
		return ended
	}
	begun := s.start(func() {
		defer func() { <-s.room }()
		ctx, cancel := context.WithTimeout(context.Background(), sharedTimeout)
		defer cancel()
		err := f(ctx)
		if !errors.Is(err, transport.ErrTooLarge) { // that one stays in this process
			s.note(err)
		}
		ended <- err
	})
	if !begun {
		<-s.room
		ended <- errNoAccess
	}
	return ended
}

// resting reports whether the store has failed a short time ago. If not, and it had, it is tried by one caller.
func (s *sharedResults) resting() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.failing {
		return false
	}
	now := time.Now()
	if now.Before(s.again) {
		return true
	}
	s.again = now.Add(sharedPause)
	return false
}

// note takes down how an access has gone, and logs it when that has changed.
func (s *sharedResults) note(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.failing
	s.failing = err != nil
	if err != nil {
		s.again = time.Now().Add(sharedPause)
	}
	switch {
	case err != nil && !was:
		s.log.Warn("results can't be shared with other servers of the service, they are kept in this process alone", "name", s.name, "error", err)
	case err == nil && was:
		s.log.Info("results are shared with other servers of the service again", "name", s.name)
	}
}

// resultVersion is the first byte of a shared result. Behind it are the time at which it was made, in
// nanoseconds since 1970, its content type with the length in front, and its body.
const resultVersion = 1

func (r result) encode() []byte {
	b := make([]byte, 0, 1+8+binary.MaxVarintLen64+len(r.contentType)+len(r.body))
	b = binary.BigEndian.AppendUint64(append(b, resultVersion), uint64(r.made.UnixNano()))
	b = binary.AppendUvarint(b, uint64(len(r.contentType)))
	return append(append(b, r.contentType...), r.body...)
}

// decodeResult reads a shared result. What is none, or one of another version, may be in its place.
func decodeResult(b []byte) (result, bool) {
	if len(b) < 1+8 || b[0] != resultVersion {
		return result{}, false
	}
	made := time.Unix(0, int64(binary.BigEndian.Uint64(b[1:])))
	b = b[1+8:]
	length, n := binary.Uvarint(b)
	if n <= 0 || length > uint64(len(b)-n) {
		return result{}, false
	}
	contentType, body := b[n:n+int(length)], b[n+int(length):]
	return result{body, string(contentType), made}, true
}
