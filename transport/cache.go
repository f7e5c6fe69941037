package transport

import (
	"context"
	"time"
)

// CachingCarrier is an add-on to Carrier, of those with a place where all nodes can keep what they
// may lose at any time: package service shares results in it (service.Cache).
type CachingCarrier interface {
	Carrier
	// Cache returns that place, or nil if the carrier has been opened without one. It does not change.
	Cache() Cache
}

// Cache keeps values for a while. Its methods may be called concurrently, and return with an error soon
// after ctx has ended. A key is 1 to 64 of A-Z a-z 0-9 _ -.
type Cache interface {
	// Get returns the value of a key, which is the caller's then, or nil if there is none.
	Get(ctx context.Context, key string) ([]byte, error)
	// Put keeps a value, which is not empty and only borrowed, instead of the one that the key may
	// have. It is gone after ttl, or somewhat later: who must know exactly says so in the value. The
	// error of one that is too large wraps ErrTooLarge.
	Put(ctx context.Context, key string, value []byte, ttl time.Duration) error
}
