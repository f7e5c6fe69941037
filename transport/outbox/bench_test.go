package outbox_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/outbox"
)

// BenchmarkSend says how many messages a second are accepted, with the next hop taking them
// (up) and with none (down).
func BenchmarkSend(b *testing.B) {
	for _, up := range []bool{true, false} {
		for _, publishers := range []int{1, 8, 64} {
			b.Run(fmt.Sprintf("up=%v/publishers=%d", up, publishers), func(b *testing.B) {
				h := &sink{down: !up}
				o := open(b, h, outbox.Options{MaxEntries: 1 << 30, MaxBytes: 1 << 40})
				spread(b, publishers, func(p *publisher) error { return o.Send(context.Background(), p.message(body)) })
			})
		}
	}
}

// BenchmarkRaw is what bbolt does by itself: a transaction for each message.
func BenchmarkRaw(b *testing.B) {
	for _, publishers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("publishers=%d", publishers), func(b *testing.B) {
			db, err := bbolt.Open(filepath.Join(b.TempDir(), "raw"), 0o600, nil)
			if err != nil {
				b.Fatal(err)
			}
			defer db.Close()
			var mu sync.Mutex
			n := uint64(0)
			spread(b, publishers, func(*publisher) error {
				mu.Lock()
				n++
				key := binary.BigEndian.AppendUint64(nil, n)
				mu.Unlock()
				return db.Update(func(tx *bbolt.Tx) error {
					bucket, err := tx.CreateBucketIfNotExists([]byte("b"))
					if err != nil {
						return err
					}
					return bucket.Put(key, []byte(body))
				})
			})
		})
	}
}

// BenchmarkOpen opens an outbox with many messages.
func BenchmarkOpen(b *testing.B) {
	const entries = 100_000
	file := newFile(b)
	o := open(b, &sink{down: true}, outbox.Options{File: file, MaxEntries: entries})
	p := newPublisher()
	for range entries / 1000 {
		send(b, o, p.several(body, 1000)...)
	}
	closeBox(b, o)
	for b.Loop() {
		o, err := outbox.Open(&sink{down: true}, outbox.Options{File: file, Logger: quiet})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		closeBox(b, o)
		b.StartTimer()
	}
	b.ReportMetric(entries, "entries")
}

var body = string(make([]byte, 500))

// spread runs f in as many goroutines as there are publishers, and reports how often a second.
func spread(b *testing.B, publishers int, f func(*publisher) error) {
	work := make(chan struct{}, 1024)
	var all sync.WaitGroup
	for range publishers {
		all.Go(func() {
			p := newPublisher()
			for range work {
				if err := f(p); err != nil {
					b.Error(err)
				}
			}
		})
	}
	n := 0
	for b.Loop() {
		work <- struct{}{}
		n++
	}
	close(work)
	all.Wait()
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "msg/s")
}

// sink takes everything at once, or nothing.
type sink struct {
	*hop
	down bool
}

func (s *sink) Send(context.Context, ...*transport.Message) error {
	if s.down {
		return fail(transport.Temporary, 0, errDown)
	}
	return nil
}

func (s *sink) Close(context.Context) error { return nil }
