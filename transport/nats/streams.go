package nats

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/postbus/postbus/internal/order"
	"github.com/postbus/postbus/transport"
)

// Stream is a stream of JetStream, which keeps the messages of some names: what is sent to these waits there for durable
// interests and groups, and for those who join later.
//
// Open creates a stream that does not exist, with two more beside it: its dead letters are in NAME_DEAD, and NAME_BOOK
// has what the users of a durable name or group have to tell each other. One that exists has to be
// as it is written here: nothing is ever altered. It needs nats-server 2.11 or later.
type Stream struct {
	// Name is the stream's: 1 to 64 of A-Z a-z 0-9 _ - are allowed.
	Name string
	// Names are names and name patterns (see transport.ValidatePattern). Two streams can't have the same name, and a
	// pattern that begins with ">" or "*" is not possible, because NATS has subjects of its own.
	Names []string
	// Storage is "file" or "memory"; empty means "file".
	Storage string
	// Replicas is how many servers of a cluster keep each message, 1 to 5; zero means 1.
	Replicas int
	// MaxAge is how long a message is kept; zero means for ever.
	MaxAge time.Duration
	// MaxBytes and MaxMessages are how much is kept: the oldest messages go first, handled or not. Zero means no limit.
	MaxBytes, MaxMessages int64
	// Duplicates is for how long the server knows a message when it is sent again; zero means two minutes, or MaxAge if that is
	// less. It should be longer than an outbox may have to wait for the answer of a server.
	Duplicates time.Duration
}

// The streams beside a stream, and where their subjects begin. No name has such a subject.
const (
	deadSuffix  = "_DEAD"
	bookSuffix  = "_BOOK"
	deadSubject = "$POSTBUS.dead."
	bookSubject = "$POSTBUS.book."
)

const (
	defaultDuplicates = 2 * time.Minute
	// maxDead is how many dead letters of a stream are kept; the oldest go first.
	maxDead = 1 << 16
	// apiTimeout bounds each request to JetStream besides those that have a bound of their own.
	apiTimeout = 5 * time.Second
	// lookTimeout bounds the wait for a stream that has been there: while a cluster elects who leads it nobody answers.
	lookTimeout = time.Second
)

var streamName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// complete returns the stream with its defaults, or says what is wrong with it.
func (s Stream) complete() (Stream, error) {
	fail := func(format string, args ...any) (Stream, error) {
		return s, fmt.Errorf("stream %.80q: %w", s.Name, fmt.Errorf(format, args...))
	}
	if s.Storage == "" {
		s.Storage = "file"
	}
	if s.Replicas == 0 {
		s.Replicas = 1
	}
	if s.Duplicates == 0 {
		s.Duplicates = defaultDuplicates
		if s.MaxAge > 0 {
			s.Duplicates = min(s.Duplicates, s.MaxAge)
		}
	}
	switch {
	case !streamName.MatchString(s.Name):
		return fail("name: 1 to 64 of A-Z a-z 0-9 _ - are allowed")
	case len(s.Names) == 0:
		return fail("names: there are none")
	case s.MaxAge < 0 || s.MaxBytes < 0 || s.MaxMessages < 0:
		return fail("max-age, max-bytes, max-messages: they can't be negative")
	case s.Duplicates < 0 || s.MaxAge > 0 && s.Duplicates > s.MaxAge:
		return fail("duplicates: %v; 0 to max-age, %v, is possible", s.Duplicates, s.MaxAge)
	}
	if err := checkKeeping(s.Storage, s.Replicas); err != nil {
		return fail("%w", err)
	}
	for i, name := range s.Names {
		if slices.Contains(s.Names[:i], name) {
			return fail("names: %q is there twice", name)
		}
		if err := transport.ValidatePattern(name); err != nil {
			return fail("names: %w", err)
		}
		if first, _, _ := strings.Cut(name, "."); first == ">" || first == "*" {
			return fail("names: %q is not possible, because NATS has subjects of its own", name)
		}
	}
	return s, nil
}

// checkKeeping checks where a stream or bucket is kept, and how often.
func checkKeeping(storage string, replicas int) error {
	switch {
	case storage != "file" && storage != "memory":
		return fmt.Errorf("storage: %.40q is neither file nor memory", storage)
	case replicas < 1 || replicas > 5:
		return fmt.Errorf("replicas: %d; 1 to 5 are possible", replicas)
	}
	return nil
}

// checkStreams completes the streams of a configuration.
func checkStreams(streams []Stream) ([]Stream, error) {
	streams = slices.Clone(streams)
	known := make(map[string]bool)
	for i, s := range streams {
		complete, err := s.complete()
		if err != nil {
			return nil, err
		}
		for _, c := range complete.configs() {
			if known[c.Name] {
				return nil, fmt.Errorf("stream %q is there twice, itself or beside another", c.Name)
			}
			known[c.Name] = true
		}
		streams[i] = complete
	}
	return streams, nil
}

// configs returns what the server is to know of the stream and those beside it.
func (s Stream) configs() []jetstream.StreamConfig {
	storage := storageType(s.Storage)
	subjects := make([]string, len(s.Names))
	for i, name := range s.Names {
		subjects[i] = Subject(name)
	}
	return []jetstream.StreamConfig{
		{
			Name: s.Name, Description: "messages of postbus", Subjects: subjects,
			Storage: storage, Replicas: s.Replicas,
			MaxAge: s.MaxAge, MaxBytes: unlimited(s.MaxBytes), MaxMsgs: unlimited(s.MaxMessages), Duplicates: s.Duplicates,
		},
		{
			Name: s.Name + deadSuffix, Description: "dead letters of " + s.Name, Subjects: []string{deadSubject + s.Name + ".>"},
			Storage: storage, Replicas: s.Replicas,
			MaxBytes: -1, MaxMsgs: maxDead, Duplicates: defaultDuplicates,
		},
		{
			Name: s.Name + bookSuffix, Description: "what the users of " + s.Name + " tell each other", Subjects: []string{bookSubject + s.Name + ".>"},
			Storage: storage, Replicas: s.Replicas,
			MaxBytes: -1, MaxMsgs: -1, MaxMsgsPerSubject: 1, AllowMsgTTL: true, Duplicates: defaultDuplicates,
		},
	}
}

func storageType(storage string) jetstream.StorageType {
	if storage == "memory" {
		return jetstream.MemoryStorage
	}
	return jetstream.FileStorage
}

func unlimited(n int64) int64 {
	if n == 0 {
		return -1
	}
	return n
}

// field is something that is as it is on the server, and should be as the configuration wants it.
type field struct {
	name       string
	want, have any
}

// differs says in what something on the server is not as it is wanted.
func differs(what string, fields ...field) error {
	for _, f := range fields {
		if f.want != f.have {
			return fmt.Errorf("%s: %s: the server has %v, and it has to be %v; %w", what, f.name, f.have, f.want, errDiffers)
		}
	}
	return nil
}

// streamDiffers says in what a stream on the server is not as it is wanted.
func streamDiffers(want, have jetstream.StreamConfig) error {
	slices.Sort(want.Subjects)
	slices.Sort(have.Subjects)
	return differs("stream "+want.Name, []field{
		{"names", strings.Join(want.Subjects, " "), strings.Join(have.Subjects, " ")},
		{"storage", want.Storage.String(), have.Storage.String()},
		{"replicas", want.Replicas, have.Replicas},
		{"max-age", want.MaxAge, have.MaxAge},
		{"max-bytes", want.MaxBytes, have.MaxBytes},
		{"max-messages", want.MaxMsgs, have.MaxMsgs},
		{"messages of each subject", unlimited(want.MaxMsgsPerSubject), have.MaxMsgsPerSubject},
		{"duplicates", want.Duplicates, have.Duplicates},
		{"retention", want.Retention.String(), have.Retention.String()},
		{"messages with an age of their own", want.AllowMsgTTL, want.AllowMsgTTL && have.AllowMsgTTL},
		{"discard", want.Discard.String(), have.Discard.String()},
		{"no acknowledgement", false, have.NoAck},
		{"sealed", false, have.Sealed},
		{"largest message", int32(-1), have.MaxMsgSize},
		{"consumers", -1, have.MaxConsumers},
		{"mirror or sources", false, have.Mirror != nil || len(have.Sources) > 0},
		{"idle consumers", time.Duration(0), have.ConsumerLimits.InactiveThreshold},
		{"transform of subjects", false, have.SubjectTransform != nil},
	}...)
}

var errDiffers = errors.New("nothing is altered here, so change one of them")

// stream is a stream of the configuration, as a carrier uses it.
type stream struct {
	Stream
	carrier  *Carrier
	subjects []string

	ready    atomic.Bool   // it has been found to be as it should be
	doubtful atomic.Bool   // what has been published last may not have been taken; see flight.add
	ensuring chan struct{} // has an element while somebody ensures that it is there
	found    bool          // it has been ready once; of whoever ensures

	mu        sync.Mutex
	consumers map[string]*consumer
	taken     order.Memory // the requests that have been confirmed
}

func newStream(c *Carrier, s Stream) *stream {
	return &stream{Stream: s, carrier: c, subjects: s.configs()[0].Subjects, consumers: make(map[string]*consumer), ensuring: make(chan struct{}, 1)}
}

// streamOf returns the stream that keeps all messages of a subject, which may have wildcards, or nil.
func (c *Carrier) streamOf(subject string) *stream {
	for _, s := range c.streams {
		for _, outer := range s.subjects {
			if coversSubject(outer, subject) {
				return s
			}
		}
	}
	return nil
}

// coversSubject reports whether every subject that inner stands for is one that outer stands for.
func coversSubject(outer, inner string) bool {
	for {
		if outer == inner || outer == ">" {
			return true
		}
		o, outerRest, outerMore := strings.Cut(outer, ".")
		i, innerRest, innerMore := strings.Cut(inner, ".")
		if i == ">" || o != i && o != "*" || outerMore != innerMore {
			return false
		}
		if !outerMore {
			return true
		}
		outer, inner = outerRest, innerRest
	}
}

// ensure creates the stream and those beside it, or checks that they are as they should be, unless that has been done.
func (s *stream) ensure(ctx context.Context) error {
	if s.ready.Load() {
		return nil
	}
	select {
	case s.ensuring <- struct{}{}:
	case <-ctx.Done():
		return transport.ContextError(ctx)
	}
	defer func() { <-s.ensuring }()
	if s.ready.Load() {
		return nil
	}
	if err := s.carrier.checkVersion(); err != nil {
		return fmt.Errorf("stream %s: %w", s.Name, err)
	}
	for _, want := range s.configs() {
		if err := s.ensureOne(ctx, want); err != nil {
			return err
		}
	}
	s.found = true
	s.ready.Store(true)
	return nil
}

func (s *stream) ensureOne(ctx context.Context, want jetstream.StreamConfig) error {
	limit := apiTimeout
	if s.found {
		limit = lookTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	js := s.carrier.js
	found, err := js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if s.found {
			s.carrier.logger.Error("nats: a stream has vanished, and what it had with it; it is created anew", "stream", want.Name)
		}
		found, err = js.CreateStream(ctx, want)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // somebody else was faster
			found, err = js.Stream(ctx, want.Name)
		}
	}
	if err != nil {
		return fmt.Errorf("stream %s: %w", want.Name, jetStreamError(err))
	}
	return streamDiffers(want, found.CachedInfo().Config)
}

// failure returns what an error about the stream, or one beside it, means for people. If it says that there is none, as after the restart
// of a server that kept it in memory, the stream is looked for, and created again, before its next use; so it is if nobody confirms: whoever
// has subscribed to the subject keeps the server from saying that there is none.
func (s *stream) failure(err error) error {
	if vanished(err) || errors.Is(err, jetstream.ErrAsyncPublishTimeout) {
		s.ready.Store(false)
	}
	return jetStreamError(err)
}

// vanished reports whether an error may say that a stream, or a bucket, is not there.
func vanished(err error) bool {
	for _, gone := range []error{jetstream.ErrNoStreamResponse, jetstream.ErrStreamNotFound, jetstream.ErrBucketNotFound, nats.ErrNoResponders} {
		if errors.Is(err, gone) {
			return true
		}
	}
	return false
}

// jetStreamError says what an error of JetStream means for people, where it does not say so itself.
func jetStreamError(err error) error {
	switch {
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return fmt.Errorf("the server has no JetStream, or not for this account, or is only starting: %w", err)
	case errors.Is(err, nats.ErrReconnectBufExceeded):
		return fmt.Errorf("there is no connection to a server: %w", err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: the server does not answer: %w", transport.ErrTimeout, err)
	}
	return err
}
