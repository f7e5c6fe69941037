package email

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"go.yaml.in/yaml/v3"
)

// Outbox is what a configuration file says about the file in which messages are kept
// until they can be sent. Numbers that are zero mean the defaults of package transport/outbox, whose
// options they are.
type Outbox struct {
	// File is its path. Empty means that there is none: messages are not kept.
	File string
	// MaxEntries, MaxBytes and MaxAge limit what waits in it.
	MaxEntries int
	MaxBytes   int64
	MaxAge     time.Duration
	// DropOldest says that the oldest messages make room when it is full, instead of new ones
	// being refused.
	DropOldest bool
}

// settings returns the format of the section outbox. The file is relative to folder.
func (o *Outbox) settings(folder string) value {
	return section(
		setting{key: "file", required: true, value: text(func(path string) error {
			if !filepath.IsAbs(path) {
				path = filepath.Join(folder, path)
			}
			o.File = path
			return nil
		})},
		setting{key: "max-entries", value: limit(&o.MaxEntries)},
		setting{key: "max-bytes", value: limit(&o.MaxBytes)},
		setting{key: "max-age", value: duration(&o.MaxAge)},
		setting{key: "when-full", value: text(func(s string) error {
			if s != "refuse" && s != "drop-oldest" {
				return fmt.Errorf("%q is not known; the values are refuse and drop-oldest", s)
			}
			o.DropOldest = s == "drop-oldest"
			return nil
		})},
	)
}

// limit reads a whole number greater than 0: 0 would mean a default, which nobody expects.
func limit[T ~int | ~int64](into *T) value {
	number := count(into)
	return func(p *parser, key string, n *yaml.Node) {
		before := len(p.errs)
		number(p, key, n)
		if len(p.errs) == before && *into == 0 {
			p.fail(n, key, errors.New("this must be greater than 0"))
		}
	}
}
