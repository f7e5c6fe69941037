package email

import (
	"cmp"
	"fmt"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/postbus/postbus/email/wire"
)

// The defaults of a Batching.
const (
	// DefaultBatchMessages is more than fit in DefaultBatchBytes unless they are tiny.
	DefaultBatchMessages = 1024
	// DefaultBatchBytes, and what mail servers put in front, are within the 64 KiB of a mail that
	// receivers fetch at once.
	DefaultBatchBytes = 60 << 10
)

// MaxBatchBytes is the most that Batching.Bytes can be. Receivers take batches of that size, whatever their MaxBody.
const MaxBatchBytes = 1 << 20

// maxBatchDelay is the longest Delay. What a message waits is not to be a matter of minutes.
const maxBatchDelay = 10 * time.Second

// Batching says whether messages are collected and travel as one mail: those that are to be sent, to the same
// recipients, while another mail is on its way to the server. See the package comment. Numbers that are
// zero mean the defaults.
type Batching struct {
	// On switches it on.
	On bool
	// Messages and Bytes limit a mail of several messages: how many there are, at most 4096, and how large it gets, at most MaxBatchBytes.
	// With more bytes than the default receivers take a second look at each such mail.
	Messages, Bytes int
	// Delay is how long a message may wait for others when the way is free. The default is not at
	// all: what is collected is what comes while a mail is on its way. The first message after
	// a pause never waits. At most ten seconds.
	Delay time.Duration
}

// check checks the numbers.
func (b *Batching) check() error {
	switch {
	case b.Messages < 0 || b.Messages > wire.MaxBatch:
		return keyError{"email.batch.messages", fmt.Errorf("%d is not a number from 1 to %d", b.Messages, wire.MaxBatch)}
	case b.Bytes < 0 || b.Bytes > MaxBatchBytes:
		return keyError{"email.batch.bytes", fmt.Errorf("%d is not a number from 1 to %d", b.Bytes, MaxBatchBytes)}
	case b.Delay < 0 || b.Delay > maxBatchDelay:
		return keyError{"email.batch.delay", fmt.Errorf("%v is not a time from 0 to %v", b.Delay, maxBatchDelay)}
	}
	return nil
}

// complete returns b with the defaults in the place of zeros.
func (b Batching) complete() Batching {
	b.Messages, b.Bytes = cmp.Or(b.Messages, DefaultBatchMessages), cmp.Or(b.Bytes, DefaultBatchBytes)
	return b
}

// settings returns the format of the key email.batch: true or false, or a section.
func (b *Batching) settings() value {
	section := section(
		setting{key: "messages", value: limit(&b.Messages)},
		setting{key: "bytes", value: limit(&b.Bytes)},
		setting{key: "delay", value: text(func(s string) (err error) {
			if b.Delay, err = time.ParseDuration(s); err != nil || b.Delay < 0 {
				return fmt.Errorf("%q is not a time, such as 5ms", s)
			}
			return nil
		})},
	)
	return func(p *parser, key string, n *yaml.Node) {
		if resolve(n).Kind != yaml.MappingNode {
			boolean(&b.On)(p, key, n)
			return
		}
		b.On = true
		section(p, key, n)
	}
}
