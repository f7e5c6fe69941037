package email

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/postbus/postbus/transport"
)

// NATS is what a configuration file says about the servers of NATS that are to carry the messages
// instead of mail. What is empty or zero means the default of package transport/nats, whose Config has the same fields.
type NATS struct {
	// Servers are the URLs of the servers. None means that there is no such section.
	Servers []string
	// Name, Version and Description are those of the program, for monitoring.
	Name, Version, Description string
	// User and Password, Token, the path of a file with Credentials, or of one with the seed of an NKey show who it is.
	User, Password    string
	Token             string
	Credentials, NKey string
	// Insecure lets a password or token go through a network without encryption.
	Insecure bool
	// CA holds certificates (PEM) of authorities to trust, Certificate and Key those of the program itself.
	CA, Certificate, Key []byte
	// InboxPrefix is where the subjects of its inboxes begin.
	InboxPrefix string
	// MaxPayload is how many bytes a message may have, header included, if that is less than the server says.
	MaxPayload int64
	// Streams keep the messages of some names; the bucket Objects keeps bodies that are too large for the
	// server, and Cache results that servers of a service share. A bucket without a name is none.
	Streams []NATSStream
	Objects NATSBucket
	Cache   NATSBucket
}

// NATSStream is a stream of JetStream for the messages of some names and name patterns.
type NATSStream struct {
	Name                  string
	Names                 []string
	Storage               string // "file" or "memory"
	Replicas              int
	MaxAge                time.Duration
	MaxBytes, MaxMessages int64
	Duplicates            time.Duration
}

// NATSBucket is a bucket of JetStream.
type NATSBucket struct {
	Bucket   string
	MaxAge   time.Duration // not of the cache, whose results have ages of their own
	MaxBytes int64
	Storage  string
	Replicas int
}

// settings returns the format of the section nats: the URL of a server alone, or a mapping. Files are
// relative to folder.
func (c *NATS) settings(folder string) value {
	mapping := c.mapping(folder)
	return func(p *parser, key string, n *yaml.Node) {
		switch r := resolve(n); {
		case r.Kind == yaml.ScalarNode && r.Value != "":
			text(c.addServer)(p, key, n)
			return
		case r.Kind != yaml.MappingNode:
			p.fail(n, key, errors.New("this must be the URL of a server, such as nats://localhost:4222, or a mapping with the key servers"))
			return
		}
		before := len(p.errs)
		mapping(p, key, n)
		if len(p.errs) == before {
			if err := c.oneIdentity(); err != nil {
				p.fail(n, key, err)
			}
		}
	}
}

func (c *NATS) mapping(folder string) value {
	content := func(into *[]byte) value {
		return text(func(path string) (err error) { *into, err = os.ReadFile(inFolder(folder, path)); return err })
	}
	path := func(into *string) value {
		return text(func(path string) error {
			*into = inFolder(folder, path)
			file, err := os.Open(*into)
			if err != nil {
				return err
			}
			return file.Close()
		})
	}
	settings := []setting{
		{key: "servers", required: true, value: some(texts(c.addServer))},
		{key: "name", value: matching(&c.Name, natsLabel, "letters, digits, _ and -")},
		{key: "version", value: matching(&c.Version, natsVersion, "three numbers, as in 1.0.0")},
		{key: "description", value: text(func(s string) error { c.Description = s; return nil })},
		{key: "inbox-prefix", value: matching(&c.InboxPrefix, natsPrefix, "tokens of letters, digits, _ and -")},
		{key: "max-payload", value: limit(&c.MaxPayload)},
		{key: "user", value: text(func(s string) error { c.User = s; return nil })},
		{key: "credentials", value: path(&c.Credentials)},
		{key: "nkey", value: path(&c.NKey)},
		{key: "insecure", value: boolean(&c.Insecure)},
		{key: "tls", value: section(
			setting{key: "ca-file", value: content(&c.CA)},
			setting{key: "cert-file", value: content(&c.Certificate)},
			setting{key: "key-file", value: content(&c.Key)},
		)},
		{key: "streams", value: list(c.stream)},
		{key: "objects", value: c.Objects.settings(setting{key: "max-age", value: duration(&c.Objects.MaxAge)})},
		{key: "cache", value: c.Cache.settings()},
	}
	settings = append(settings, secret("password", &c.Password, folder)...)
	settings = append(settings, secret("token", &c.Token, folder)...)
	return section(settings...)
}

// What names are made of in NATS.
var (
	natsLabel   = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	natsVersion = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`)
	natsPrefix  = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)
)

// matching reads a text of a form that want describes.
func matching(into *string, form *regexp.Regexp, want string) value {
	return text(func(s string) error {
		if *into = s; !form.MatchString(s) {
			return fmt.Errorf("%.80q is not %s", s, want)
		}
		return nil
	})
}

// addServer checks and adds the URL of a server. Its errors don't show a password or token that is in it.
func (c *NATS) addServer(s string) error {
	u, err := url.Parse(s)
	if err != nil {
		return errors.New("this is not a URL, such as nats://localhost:4222")
	}
	shown := *u
	shown.User = nil // a user alone is a token
	switch u.Scheme {
	case "nats", "tls", "ws", "wss":
	default:
		return fmt.Errorf("%q does not begin with nats://, tls://, ws:// or wss://", shown.String())
	}
	if u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("%q is not the URL of a server, such as nats://localhost:4222", shown.String())
	}
	c.Servers = append(c.Servers, s)
	return nil
}

// oneIdentity checks that there is one way at most to show who the program is.
func (c *NATS) oneIdentity() error {
	ways := 0
	for _, way := range []string{c.User, c.Token, c.Credentials, c.NKey} {
		if way != "" {
			ways++
		}
	}
	switch {
	case ways > 1:
		return errors.New("at most one of user, token, credentials and nkey is possible")
	case (c.User == "") != (c.Password == ""):
		return errors.New("user and password belong together")
	case (len(c.Certificate) == 0) != (len(c.Key) == 0):
		return errors.New("tls.cert-file and tls.key-file belong together")
	}
	return nil
}

// stream returns the format of an element of the section nats.streams.
func (c *NATS) stream() value {
	var s NATSStream
	settings := section(
		setting{key: "name", required: true, value: matching(&s.Name, natsLabel, "1 to 64 of A-Z a-z 0-9 _ -")},
		setting{key: "names", required: true, value: some(texts(func(name string) error {
			if slices.Contains(s.Names, name) {
				return fmt.Errorf("%q is here twice", name)
			}
			s.Names = append(s.Names, name)
			if first, _, _ := strings.Cut(name, "."); first == ">" || first == "*" {
				return fmt.Errorf("%q is not possible, because NATS has subjects of its own", name)
			}
			return transport.ValidatePattern(name)
		}))},
		setting{key: "storage", value: text(storage(&s.Storage))},
		setting{key: "replicas", value: replicas(&s.Replicas)},
		setting{key: "max-age", value: duration(&s.MaxAge)},
		setting{key: "max-bytes", value: limit(&s.MaxBytes)},
		setting{key: "max-messages", value: limit(&s.MaxMessages)},
		setting{key: "duplicates", value: duration(&s.Duplicates)},
	)
	return func(p *parser, key string, n *yaml.Node) {
		before := len(p.errs)
		settings(p, key, n)
		if len(p.errs) == before {
			for _, other := range c.Streams {
				if other.Name == s.Name {
					p.fail(nodeAt(n, "name"), join(key, "name"), fmt.Errorf("the stream %s is here twice", s.Name))
				}
			}
			if s.MaxAge > 0 && s.Duplicates > s.MaxAge {
				p.fail(nodeAt(n, "duplicates"), join(key, "duplicates"), fmt.Errorf("%v is longer than max-age, %v", s.Duplicates, s.MaxAge))
			}
		}
		c.Streams = append(c.Streams, s)
	}
}

// settings returns the format of a section that describes a bucket.
func (b *NATSBucket) settings(more ...setting) value {
	return section(append([]setting{
		{key: "bucket", required: true, value: matching(&b.Bucket, natsLabel, "1 to 64 of A-Z a-z 0-9 _ -")},
		{key: "storage", value: text(storage(&b.Storage))},
		{key: "replicas", value: replicas(&b.Replicas)},
		{key: "max-bytes", value: limit(&b.MaxBytes)},
	}, more...)...)
}

func storage(into *string) func(string) error {
	return func(s string) error {
		if *into = s; s != "file" && s != "memory" {
			return fmt.Errorf("%q is not known; the values are file and memory", s)
		}
		return nil
	}
}

func replicas(into *int) value {
	number := count(into)
	return func(p *parser, key string, n *yaml.Node) {
		before := len(p.errs)
		number(p, key, n)
		if len(p.errs) == before && (*into < 1 || *into > 5) {
			p.fail(n, key, fmt.Errorf("%d is not a number from 1 to 5", *into))
		}
	}
}

// duration reads a time greater than 0.
func duration(into *time.Duration) value {
	return text(func(s string) (err error) {
		if *into, err = time.ParseDuration(s); err != nil || *into <= 0 {
			return fmt.Errorf("%q is not a time greater than 0, such as 90m or 48h", s)
		}
		return nil
	})
}

// secret returns the three keys that a secret can have: one with the secret, one with the path of a file, and one
// with the name of an environment variable that has it. At most one of them is possible.
func secret(key string, into *string, folder string) []setting {
	set := func(s string) error {
		if *into != "" {
			return fmt.Errorf("at most one of the keys %[1]s, %[1]s-file and %[1]s-env is possible", key)
		}
		*into = s
		return nil
	}
	return []setting{
		{key: key, value: text(set)},
		{key: key + "-file", value: text(func(path string) error {
			data, err := os.ReadFile(inFolder(folder, path))
			if err != nil {
				return err
			}
			s := strings.TrimRight(string(data), "\r\n")
			if s == "" {
				return fmt.Errorf("the file %s is empty", path)
			}
			return set(s)
		})},
		{key: key + "-env", value: text(func(name string) error {
			if os.Getenv(name) == "" {
				return fmt.Errorf("the environment variable %s is not set", name)
			}
			return set(os.Getenv(name))
		})},
	}
}

// inFolder returns a path that may be relative to a folder.
func inFolder(folder, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(folder, path)
}
