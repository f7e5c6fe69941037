package nats

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/postbus/postbus/transport"
)

// Cache is a bucket of JetStream's key/value store, in which the servers of a service share results that may be used again
// (service.Cache). Open creates a bucket that does not exist. One that exists has to be as it is written here.
// What finds no room in it is not shared until older results are gone. It needs nats-server 2.11 or later.
type Cache struct {
	// Bucket is the name of the bucket: 1 to 64 of A-Z a-z 0-9 _ - are allowed. Empty means that there is none, and
	// that each process keeps its results for itself.
	Bucket string
	// MaxBytes is how much is kept in all; zero means DefaultCacheBytes.
	MaxBytes int64
	// Storage is "file" or "memory"; empty means "file".
	Storage string
	// Replicas is how many servers of a cluster keep each result, 1 to 5; zero means 1.
	Replicas int
}

// DefaultCacheBytes is how much is kept in a Cache unless it is told otherwise.
const DefaultCacheBytes = 256 << 20

// markerAge is how long the server remembers that a result is gone. It is needed for results with ages of their own.
const markerAge = time.Second

// complete returns the bucket with its defaults, or says what is wrong with it.
func (k Cache) complete() (Cache, error) {
	if k == (Cache{}) {
		return k, nil
	}
	k.MaxBytes = cmp.Or(k.MaxBytes, DefaultCacheBytes)
	k.Storage = cmp.Or(k.Storage, "file")
	k.Replicas = cmp.Or(k.Replicas, 1)
	switch {
	case k.Bucket == "":
		return k, errors.New("cache: bucket: there is no name")
	case !bucketName.MatchString(k.Bucket):
		return k, fmt.Errorf("cache: bucket: %.80q is not allowed, but 1 to 64 of A-Z a-z 0-9 _ -", k.Bucket)
	case k.MaxBytes < 0:
		return k, errors.New("cache: max-bytes: it can't be negative")
	}
	if err := checkKeeping(k.Storage, k.Replicas); err != nil {
		return k, fmt.Errorf("cache: %w", err)
	}
	return k, nil
}

// cache is where results are shared.
type cache struct {
	Cache
	carrier *Carrier
	js      jetstream.JetStream

	mu     sync.Mutex
	values jetstream.KeyValue // nil until it has been found or created, and again after it has failed
}

var (
	_ transport.CachingCarrier = (*Carrier)(nil)
	_ transport.Cache          = (*cache)(nil)
)

// Cache implements transport.CachingCarrier.
func (c *Carrier) Cache() transport.Cache {
	if c.cache == nil {
		return nil
	}
	return c.cache
}

// open finds or creates the bucket, unless that has been done.
func (k *cache) open(ctx context.Context) (jetstream.KeyValue, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.values != nil {
		return k.values, nil
	}
	if err := k.carrier.checkVersion(); err != nil {
		return nil, k.failed(err)
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	values, err := findBucket(
		func() (jetstream.KeyValue, error) { return k.js.KeyValue(ctx, k.Bucket) },
		func() (jetstream.KeyValue, error) {
			return k.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{
				Bucket: k.Bucket, Description: "results that servers of postbus share", LimitMarkerTTL: markerAge,
				MaxBytes: k.MaxBytes, Storage: storageType(k.Storage), Replicas: k.Replicas,
			})
		})
	if err != nil {
		return nil, k.failed(err)
	}
	if err := k.check(ctx, values); err != nil {
		return nil, err
	}
	k.values = values
	return values, nil
}

// check says in what the bucket is not as it is wanted.
func (k *cache) check(ctx context.Context, values jetstream.KeyValue) error {
	status, err := values.Status(ctx)
	if err != nil {
		return k.failed(err)
	}
	have := status.Config()
	return differs("bucket "+k.Bucket,
		field{"max-bytes", k.MaxBytes, have.MaxBytes},
		field{"storage", storageType(k.Storage).String(), have.Storage.String()},
		field{"replicas", k.Replicas, have.Replicas},
		field{"values with an age of their own (limit marker)", true, have.LimitMarkerTTL > 0})
}

func (k *cache) failed(err error) error {
	return fmt.Errorf("bucket %s: %w", k.Bucket, jetStreamError(err))
}

// lost has the bucket looked for, and created if it is gone, when it is used next.
func (k *cache) lost(err error) error {
	k.mu.Lock()
	k.values = nil
	k.mu.Unlock()
	return k.failed(err)
}

// Get implements transport.Cache.
func (k *cache) Get(ctx context.Context, key string) ([]byte, error) {
	values, err := k.open(ctx)
	if err != nil {
		return nil, err
	}
	entry, err := values.Get(ctx, key)
	switch {
	case err == nil:
		return entry.Value(), nil
	case errors.Is(err, jetstream.ErrKeyNotFound): // or deleted
		return nil, nil
	}
	return nil, k.lost(err)
}

// Put implements transport.Cache. It does what that of a jetstream.KeyValue does, which knows no ages.
func (k *cache) Put(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	if _, err := k.open(ctx); err != nil {
		return err
	}
	msg := &nats.Msg{Subject: "$KV." + k.Bucket + "." + key, Data: value}
	err := k.carrier.fits(msg)
	if err == nil {
		_, err = k.js.PublishMsg(ctx, msg, jetstream.WithMsgTTL(wholeSeconds(ttl)), jetstream.WithRetryAttempts(0))
	}
	var api *jetstream.APIError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nats.ErrMaxPayload), errors.As(err, &api) && api.ErrorCode == storeFailed && strings.Contains(api.Description, "maximum"):
		return fmt.Errorf("%w: %w", transport.ErrTooLarge, k.failed(err))
	}
	return k.lost(err)
}

// storeFailed is the code of the server's error for a message that it can't store, one of those being that the stream would be
// larger than it may be.
const storeFailed jetstream.ErrorCode = 10077

// wholeSeconds rounds an age up to what the server can keep.
func wholeSeconds(d time.Duration) time.Duration {
	return max(time.Second, (d + time.Second - 1).Truncate(time.Second))
}
