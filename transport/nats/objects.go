package nats

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/postbus/postbus/transport"
)

// Objects is a bucket of JetStream's object store, for bodies that are too large for the server (its max_payload is 1 MiB
// unless it is told otherwise): the message has a reference then, and its receivers get the body from the bucket, so they
// need the same one. Its way into the bucket or out of it may take half a minute, and two seconds more for each MiB. Open creates a bucket that does not exist. One that exists has to be as it is written here.
type Objects struct {
	// Bucket is the name of the bucket: 1 to 64 of A-Z a-z 0-9 _ - are allowed. Empty means that there is none, and
	// that such bodies are refused (transport.ErrTooLarge).
	Bucket string
	// MaxAge is how long a body is kept, which is as long as a message has to be received, however long a stream
	// keeps it; zero means a week. Open logs a warning if the MaxAge of a stream is longer.
	MaxAge time.Duration
	// MaxBytes is how much is kept in all; zero means no limit. A body for which there is no room is not taken: sending fails with the
	// outcome Temporary.
	MaxBytes int64
	// Storage is "file" or "memory"; empty means "file".
	Storage string
	// Replicas is how many servers of a cluster keep each body, 1 to 5; zero means 1.
	Replicas int
}

const (
	defaultObjectAge = 7 * 24 * time.Hour
	// maxObject is the largest body that is read from a bucket.
	maxObject = transport.KeepAllBytes
	// objectsAtOnce is how many bodies are read at a time.
	objectsAtOnce = 4
	// objectTimeout bounds the way of a body into the bucket or out of it, together with timePerMiB; on the way out, it
	// also bounds how long nothing of it comes.
	objectTimeout = 30 * time.Second
	timePerMiB    = 2 * time.Second
	// objectPatience is how soon the end of a context ends the reading of a body.
	objectPatience = 250 * time.Millisecond
	// objectChunk is how many bytes of a body go to the server at a time.
	objectChunk = 128 << 10
	// headerObject is the field with the name of the body in the bucket.
	headerObject = "Body-Object"
)

var bucketName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// complete returns the bucket with its defaults, or says what is wrong with it.
func (o Objects) complete() (Objects, error) {
	o.MaxAge = cmp.Or(o.MaxAge, defaultObjectAge)
	o.Storage = cmp.Or(o.Storage, "file")
	o.Replicas = cmp.Or(o.Replicas, 1)
	switch {
	case o.Bucket == "" && o != (Objects{MaxAge: defaultObjectAge, Storage: "file", Replicas: 1}):
		return o, errors.New("objects: bucket: there is no name")
	case o.Bucket != "" && !bucketName.MatchString(o.Bucket):
		return o, fmt.Errorf("objects: bucket: %.80q is not allowed, but 1 to 64 of A-Z a-z 0-9 _ -", o.Bucket)
	case o.MaxAge < 0 || o.MaxBytes < 0:
		return o, errors.New("objects: max-age, max-bytes: they can't be negative")
	}
	if err := checkKeeping(o.Storage, o.Replicas); err != nil {
		return o, fmt.Errorf("objects: %w", err)
	}
	return o, nil
}

// bucket is where large bodies are.
type bucket struct {
	Objects
	carrier *Carrier
	reading chan struct{} // has an element for each body that is being read

	mu    sync.Mutex
	store jetstream.ObjectStore // nil until it has been found or created, and when it may have vanished
	found bool                  // it has been there
}

// open finds or creates the bucket, unless that has been done.
func (b *bucket) open(ctx context.Context) (jetstream.ObjectStore, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.store != nil {
		return b.store, nil
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	js := b.carrier.js
	store, err := findBucket(
		func() (jetstream.ObjectStore, error) { return js.ObjectStore(ctx, b.Bucket) },
		func() (jetstream.ObjectStore, error) {
			if b.found {
				b.carrier.logger.Error("nats: a bucket has vanished, and what it had with it; it is created anew", "bucket", b.Bucket)
			}
			return js.CreateObjectStore(ctx, jetstream.ObjectStoreConfig{
				Bucket: b.Bucket, Description: "large bodies of messages of postbus", TTL: b.MaxAge, MaxBytes: unlimited(b.MaxBytes),
				Storage: storageType(b.Storage), Replicas: b.Replicas,
			})
		})
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", b.Bucket, jetStreamError(err))
	}
	if err := b.check(ctx, store); err != nil {
		return nil, err
	}
	b.store, b.found = store, true
	return store, nil
}

// findBucket returns a bucket that is there, or else creates it.
func findBucket[B any](find, create func() (B, error)) (B, error) {
	bucket, err := find()
	if errors.Is(err, jetstream.ErrBucketNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		bucket, err = create()
		if errors.Is(err, jetstream.ErrBucketExists) { // somebody else was faster
			bucket, err = find()
		}
	}
	return bucket, err
}

// warn says which streams are told to keep messages for longer than the bucket keeps their bodies. Those that are told no time have other
// limits, or are for small messages.
func (b *bucket) warn(streams []*stream) {
	var longer []string
	for _, s := range streams {
		if s.MaxAge > b.MaxAge {
			longer = append(longer, s.Name)
		}
	}
	if len(longer) > 0 {
		b.carrier.logger.Warn("nats: large bodies are gone before their messages are: the streams keep messages for longer than the bucket does (max-age)",
			"bucket", b.Bucket, "max_age", b.MaxAge, "streams", longer)
	}
}

// failure is that of a stream.
func (b *bucket) failure(err error) error {
	if vanished(err) {
		b.mu.Lock()
		b.store = nil
		b.mu.Unlock()
	}
	return jetStreamError(err)
}

// check says in what the bucket is not as it is wanted.
func (b *bucket) check(ctx context.Context, store jetstream.ObjectStore) error {
	status, err := store.Status(ctx)
	if err != nil {
		return fmt.Errorf("bucket %s: %w", b.Bucket, jetStreamError(err))
	}
	maxBytes := unlimited(b.MaxBytes)
	if s, ok := status.(*jetstream.ObjectBucketStatus); ok { // which alone knows
		maxBytes = s.StreamInfo().Config.MaxBytes
	}
	return differs("bucket "+b.Bucket,
		field{"max-age", b.MaxAge, status.TTL()},
		field{"max-bytes", unlimited(b.MaxBytes), maxBytes},
		field{"storage", storageType(b.Storage).String(), status.Storage().String()},
		field{"replicas", b.Replicas, status.Replicas()})
}

// put keeps a body under a name, unless it is there.
func (b *bucket) put(ctx context.Context, name string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, objectTime(uint64(len(body))))
	defer cancel()
	store, err := b.open(ctx)
	if err != nil {
		return err
	}
	info, err := store.GetInfo(ctx, name)
	if err == nil && info.Size == uint64(len(body)) && time.Since(info.ModTime) < b.MaxAge/2 {
		return nil // the message is sent again, and its body is kept for long enough
	}
	meta := jetstream.ObjectMeta{Name: name, Opts: &jetstream.ObjectMetaOptions{ChunkSize: uint32(min(objectChunk, b.carrier.maxPayload()))}}
	if _, err := store.Put(ctx, meta, bytes.NewReader(body)); err != nil {
		return fmt.Errorf("bucket %s: %w", b.Bucket, b.failure(err))
	}
	return nil
}

// get returns the body with a name. Only a few are read at a time.
func (b *bucket) get(ctx context.Context, name string) ([]byte, error) {
	select {
	case b.reading <- struct{}{}:
	case <-ctx.Done():
		return nil, transport.ContextError(ctx)
	}
	defer func() { <-b.reading }()
	store, err := b.open(ctx)
	if err != nil {
		return nil, err
	}
	body, err := readObject(ctx, store, name)
	if err != nil {
		return nil, fmt.Errorf("bucket %s: the body of %s: %w", b.Bucket, name, b.failure(err))
	}
	return body, nil
}

// objectTime returns how long the way of a body of a size may take.
func objectTime(size uint64) time.Duration {
	return objectTimeout + time.Duration(size>>20)*timePerMiB
}

// readObject reads an object that is no larger than one may be, whatever its description says, and no link to another.
func readObject(ctx context.Context, store jetstream.ObjectStore, name string) (body []byte, err error) {
	asking, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	info, err := store.GetInfo(asking, name)
	if err == nil {
		err = checkObject(info, name) // before Get, which follows a link, and for ever one that leads to itself
	}
	if err != nil {
		return nil, err
	}
	ctx, cancelReading := context.WithTimeout(ctx, objectTime(info.Size))
	defer cancelReading()
	steps := &inSteps{Context: ctx}
	object, err := store.Get(steps, name)
	if err != nil {
		return nil, err
	}
	steps.begun.Store(true)
	defer func() { err = errors.Join(err, object.Close()) }()
	if info, err = object.Info(); err == nil {
		err = checkObject(info, name)
	}
	if err != nil {
		return nil, err
	}
	body, err = io.ReadAll(io.LimitReader(&objectReader{ctx, object}, maxObject+1))
	switch {
	case err != nil:
		return nil, err
	case len(body) > maxObject:
		return nil, fmt.Errorf("%w: it has more than %d bytes", transport.ErrTooLarge, maxObject)
	}
	return body, nil
}

// checkObject refuses what can't be the body with a name.
func checkObject(info *jetstream.ObjectInfo, name string) error {
	switch {
	case info.Opts != nil && info.Opts.Link != nil:
		return fmt.Errorf("it is a link to %.80q", info.Opts.Link.Name)
	case info.Name != name:
		return fmt.Errorf("it is a link to %.80q", info.Name)
	case info.Size > maxObject:
		return fmt.Errorf("%w: it has %d bytes, the limit is %d", transport.ErrTooLarge, info.Size, maxObject)
	}
	return nil
}

// inSteps is a context whose deadline is always near once the reading has begun: nats.go waits for the next part of an object until then, and
// does not notice that the context has ended before.
type inSteps struct {
	context.Context
	begun atomic.Bool
}

func (c *inSteps) Deadline() (time.Time, bool) {
	if !c.begun.Load() {
		return c.Context.Deadline()
	}
	return time.Now().Add(objectPatience), true
}

// objectReader reads an object with steps for a context.
type objectReader struct {
	ctx    context.Context
	object jetstream.ObjectResult
}

func (r *objectReader) Read(p []byte) (int, error) {
	for began := time.Now(); ; {
		n, err := r.object.Read(p)
		switch {
		case n > 0 || !errors.Is(err, os.ErrDeadlineExceeded):
			return n, err
		case r.ctx.Err() != nil:
			return 0, transport.ContextError(r.ctx)
		case time.Since(began) >= objectTimeout:
			return 0, fmt.Errorf("%w: the server does not go on with it", transport.ErrTimeout)
		}
	}
}

// outsource puts the body of a message that is ready into the bucket, if the server would not take the message as it is.
func (c *Carrier) outsource(ctx context.Context, e *envelope, m *transport.Message) *transport.SendError {
	if c.bucket == nil || len(e.msg.Data) == 0 || !c.conn.IsConnected() || int64(e.size()) <= c.maxPayload() || e.msg.Header[headerID] == nil {
		return nil
	}
	if err := c.bucket.put(ctx, m.ID.String(), e.msg.Data); err != nil {
		return &transport.SendError{Outcome: transport.Temporary, Err: err}
	}
	e.set(headerObject, m.ID.String())
	e.msg.Data = nil
	return nil
}

// size returns about how many bytes the server counts of the message: not less, and with room for the fields that
// are added for a stream.
func (e *envelope) size() int { return payload(&e.msg) + 2*maxID + 256 }

// bodyOf gets the body of a message from the bucket, if it is there.
func (c *Carrier) bodyOf(ctx context.Context, header nats.Header, m *transport.Message) error {
	values := header[headerObject]
	if len(values) == 0 {
		return nil
	}
	name := values[0]
	switch {
	case c.bucket == nil:
		return errors.New("its body is in a bucket, and the configuration names none (objects)")
	case len(name) == 0 || name != m.ID.String():
		return errors.New("its body is in a bucket, under a name that is not the message's")
	}
	body, err := c.bucket.get(ctx, name)
	if err == nil {
		m.Body = body
	}
	return err
}
