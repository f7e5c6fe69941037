package email

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/mail"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/postbus/postbus/transport"
	"go.yaml.in/yaml/v3"
)

// ConfigEnv is the environment variable that names the configuration file.
const ConfigEnv = "EMAIL_CONFIG_FILE"

// ErrNoConfig is returned by FindConfig when there is no configuration file.
var ErrNoConfig = errors.New("no configuration file")

// Config is what a node needs to know of its mail account. LoadConfig reads one from
// a file; a program may as well fill one in.
type Config struct {
	// SMTP and IMAP are the servers for sending and receiving: URLs, or bare host
	// names for TLS on the standard ports. With an IMAP URL as SMTP, messages are appended to
	// a folder; with an LMTP URL as IMAP, a mail server delivers to this node. See the package comment.
	SMTP, IMAP string
	// SMTPFallbacks are further servers for sending, for the same account. They are tried
	// in order when those before can't be reached.
	SMTPFallbacks []string
	// Username and Password are those of the account, on both servers.
	Username, Password string
	// From is the address of the account: mails carry it as sender, and answers
	// go to it. Empty means Username, which must be an address then.
	From string
	// To, Cc and Bcc receive the messages that have no recipients of their own:
	// neither an answer's nor a route's. A node without any only receives.
	To, Cc, Bcc []string
	// ListenFor are, if IMAP says to listen, the addresses besides the account's for which mail is
	// taken, and whole domains as in "@example.org". Mail for others is refused.
	ListenFor []string
	// CA holds certificates (PEM) of authorities to trust besides the system's.
	CA []byte
	// PollingPeriod is the longest time between two looks into the mailbox. Zero
	// means a minute, or a second with a server that has no IDLE.
	PollingPeriod time.Duration
	// MaxBody is the largest body of a message in bytes; messages with a larger
	// one are not received. Zero means transport.DefaultMaxBody.
	MaxBody int

	// People are the senders who may publish to topics and call services by writing
	// ordinary mail: addresses, and whole domains as in "@example.org". Anybody can
	// write any sender into a mail; see the package comment.
	People []string
	// SkippedFlag is an IMAP keyword that skipped mails get, SkippedFolder a folder that
	// they are moved to; at most one may be set. If neither is, the inbox is only read.
	// They are for an account that this node has for itself; see the package comment.
	SkippedFlag, SkippedFolder string
	// Retention says what becomes of messages that are finished. The zero value keeps them.
	Retention Retention
	// RMWEmail says that all messages are written for programs of rmw_email.
	// RMWEmailRoutes are the patterns of those Routes to whose recipients they are.
	RMWEmail       bool
	RMWEmailRoutes []string

	// Batch says whether messages are collected and travel as one mail. The zero value sends each as a mail of its own.
	Batch Batching

	// State is the file in which the carrier keeps what its durable interests remember. It
	// is created if it does not exist; its folder must. One carrier at a time can have it.
	// Without it there are no durable interests.
	State string

	// Routes, Outbox, NATS and Intraprocess are not the carrier's: whoever makes the node
	// passes the first on in transport.Options, puts an outbox in front of the carrier, and takes that of NATS
	// instead of this one if the third names servers, or the in-process carrier if the last is set.
	Routes       transport.Routes
	Outbox       Outbox
	NATS         NATS
	Intraprocess bool
}

// FindConfig returns the path of the configuration file: what EMAIL_CONFIG_FILE names,
// else email.yml in the working directory, else email.yml in the home directory. An
// error that wraps ErrNoConfig says where it has looked.
func FindConfig() (string, error) {
	if path := os.Getenv(ConfigEnv); path != "" {
		return path, nil
	}
	candidates := []string{"email.yml"}
	if home, err := os.UserHomeDir(); err == nil {
		candidates = append(candidates, filepath.Join(home, "email.yml"))
	}
	for _, path := range candidates {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("email: %w: %s is not set, and there is no %s", ErrNoConfig, ConfigEnv, strings.Join(candidates, " and no "))
}

// LoadConfig reads a configuration file, and the files and environment variables that
// it refers to. Its errors name file, line and key.
func LoadConfig(path string) (Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("email: configuration: %w", err)
	}
	return ParseConfig(data, path)
}

// ParseConfig reads a configuration that was read from the file path: its errors name
// it, and names of files in it are relative to its folder.
func ParseConfig(data []byte, path string) (Config, error) {
	var root yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	if err := decoder.Decode(&root); err != nil && !errors.Is(err, io.EOF) {
		return Config{}, fmt.Errorf("email: configuration: %s: %w", path, err)
	}
	if len(root.Content) == 0 {
		return Config{}, fmt.Errorf("email: configuration: %s: the file is empty", path)
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return Config{}, fmt.Errorf("email: configuration: %s: there is more than one YAML document", path)
	}
	var c Config
	p := &parser{file: path}
	file := root.Content[0]
	onMail := nodeAt(file, "nats") == resolve(file) // there is no such key
	c.settings(filepath.Dir(path), onMail)(p, "", file)
	if len(p.errs) == 0 {
		if wrong, ok := errors.AsType[keyError](c.inFile(onMail)); ok {
			p.fail(nodeAt(file, wrong.key), wrong.key, wrong.err)
		}
	}
	if len(p.errs) > 0 {
		return Config{}, fmt.Errorf("email: configuration: %w", errors.Join(p.errs...))
	}
	return c, nil
}

// settings returns the file's format, which fills in c. A program on NATS needs no mail account.
func (c *Config) settings(folder string, onMail bool) value {
	fromFile := func(set func([]byte) error) func(string) error {
		return func(path string) error {
			if !filepath.IsAbs(path) {
				path = filepath.Join(folder, path)
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return set(data)
		}
	}
	return section(
		setting{key: "email", required: onMail, value: section(
			setting{key: "polling-period", value: count(&c.PollingPeriod)},
			setting{key: "intraprocess", value: boolean(&c.Intraprocess)},
			setting{key: "user", required: true, value: c.user(fromFile)},
			setting{key: "recipients", value: section(
				setting{key: "to", value: texts(addAddress(&c.To))},
				setting{key: "cc", value: texts(addAddress(&c.Cc))},
				setting{key: "bcc", value: texts(addAddress(&c.Bcc))},
			)},
			setting{key: "tls", value: section(
				setting{key: "ca-file", value: text(fromFile(c.setCA))},
			)},
			setting{key: "listen", value: section(
				setting{key: "recipients", value: texts(addPerson(&c.ListenFor))},
			)},
			setting{key: "people", value: texts(addPerson(&c.People))},
			setting{key: "skipped", value: c.skipped()},
			setting{key: "compat", value: text(rmwEmail(&c.RMWEmail))},
			setting{key: "batch", value: c.Batch.settings()},
		)},
		setting{key: "nats", value: c.NATS.settings(folder)},
		setting{key: "routes", value: list(c.route)},
		setting{key: "state", value: text(func(path string) error {
			if !filepath.IsAbs(path) {
				path = filepath.Join(folder, path)
			}
			c.State = path
			return nil
		})},
		setting{key: "outbox", value: c.Outbox.settings(folder)},
		setting{key: "retention", value: c.Retention.settings()},
		setting{key: "limits", value: section(
			setting{key: "max-body", value: count(&c.MaxBody)},
		)},
	)
}

// route returns the format of an element of the section routes.
func (c *Config) route() value {
	var route transport.Route
	var rmw bool
	settings := section(
		setting{key: "pattern", required: true, value: text(func(s string) error {
			route.Pattern = s
			return transport.ValidatePattern(s)
		})},
		setting{key: "to", required: true, value: some(texts(addAddress(&route.To)))},
		setting{key: "compat", value: text(rmwEmail(&rmw))},
	)
	return func(p *parser, key string, n *yaml.Node) {
		settings(p, key, n)
		c.Routes = append(c.Routes, route)
		if rmw {
			c.RMWEmailRoutes = append(c.RMWEmailRoutes, route.Pattern)
		}
	}
}

// rmwEmail reads the one value that the keys compat may have.
func rmwEmail(into *bool) func(string) error {
	return func(s string) error {
		if s != "rmw_email" {
			return fmt.Errorf("%q is not known; the only value is rmw_email", s)
		}
		*into = true
		return nil
	}
}

// skipped returns the format of the section email.skipped.
func (c *Config) skipped() value {
	settings := section(
		setting{key: "flag", value: text(func(s string) error { c.SkippedFlag = s; return validKeyword(s) })},
		setting{key: "move", value: text(func(s string) error { c.SkippedFolder = s; return validFolder(s) })},
	)
	return func(p *parser, key string, n *yaml.Node) {
		before := len(p.errs)
		settings(p, key, n)
		if len(p.errs) == before && (c.SkippedFlag == "") == (c.SkippedFolder == "") {
			p.fail(n, key, errors.New("exactly one of the keys flag and move is required"))
		}
	}
}

// check checks what has no form of its own in a program's configuration.
func (c *Config) check() error {
	if c.PollingPeriod < 0 || c.MaxBody < 0 {
		return errors.New("a PollingPeriod or MaxBody below zero")
	}
	switch {
	case c.SkippedFlag != "" && c.SkippedFolder != "":
		return errors.New("email.skipped: SkippedFlag and SkippedFolder are both set")
	case c.SkippedFlag != "":
		if err := validKeyword(c.SkippedFlag); err != nil {
			return fmt.Errorf("email.skipped.flag: %w", err)
		}
	case c.SkippedFolder != "":
		if err := validFolder(c.SkippedFolder); err != nil {
			return fmt.Errorf("email.skipped.move: %w", err)
		}
	}
	if err := c.Retention.check(); err != nil {
		return fmt.Errorf("retention: %w", err)
	}
	return c.together()
}

// user returns the format of the section email.user.
func (c *Config) user(fromFile func(func([]byte) error) func(string) error) value {
	sources := 0
	password := func(s string) error {
		sources++
		c.Password = s
		return nil
	}
	settings := section(
		setting{key: "url-smtp", required: true, value: some(texts(func(s string) error {
			if c.SMTP == "" {
				c.SMTP = s
			} else {
				c.SMTPFallbacks = append(c.SMTPFallbacks, s)
			}
			_, err := parseServer(s, sendSchemes)
			return err
		}))},
		setting{key: "url-imap", required: true, value: text(func(s string) error {
			c.IMAP = s
			_, err := parseServer(s, receiveSchemes)
			return err
		})},
		setting{key: "username", required: true, value: text(func(s string) error { c.Username = s; return nil })},
		setting{key: "password", value: text(password)},
		setting{key: "password-file", value: text(fromFile(func(data []byte) error {
			return password(strings.TrimRight(string(data), "\r\n"))
		}))},
		setting{key: "password-env", value: text(func(name string) error {
			if os.Getenv(name) == "" {
				return fmt.Errorf("the environment variable %s is not set", name)
			}
			return password(os.Getenv(name))
		})},
		setting{key: "from", value: text(func(s string) (err error) { c.From, err = parseAddress(s); return err })},
	)
	return func(p *parser, key string, n *yaml.Node) {
		before := len(p.errs)
		settings(p, key, n)
		if len(p.errs) > before {
			return
		}
		if sources != 1 {
			p.fail(n, key, errors.New("exactly one of the keys password, password-file and password-env is required"))
		}
		if _, err := c.address(); err != nil {
			p.fail(n, join(key, "from"), err)
		}
	}
}

func (c *Config) setCA(pem []byte) error {
	c.CA = pem
	_, err := certPool(pem)
	return err
}

// certPool returns the authorities to trust: the system's and those in pem. Nil is
// the system's alone.
func certPool(pem []byte) (*x509.CertPool, error) {
	if len(pem) == 0 {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("there is no certificate (PEM) in it")
	}
	return pool, nil
}

// address returns the address of the account.
func (c *Config) address() (string, error) {
	if c.From != "" {
		return parseAddress(c.From)
	}
	address, err := parseAddress(c.Username)
	if err != nil {
		return "", fmt.Errorf("this key is required, because the user name %q is not an address", c.Username)
	}
	return address, nil
}

// parseAddress reads an address, with or without a person's name and angle brackets,
// and returns it without them.
func parseAddress(s string) (string, error) {
	a, err := mail.ParseAddress(s)
	if err != nil {
		return "", fmt.Errorf("%q is not a mail address", s)
	}
	if strings.ContainsFunc(a.Address, func(r rune) bool { return r > '~' || r < ' ' || r == '<' || r == '>' }) {
		return "", fmt.Errorf("%q has characters that mail can't carry everywhere", s)
	}
	// As it is written: with quotation marks where the local part needs them.
	written := (&mail.Address{Address: a.Address}).String()
	return written[1 : len(written)-1], nil
}

func addAddress(to *[]string) func(string) error {
	return func(s string) error {
		address, err := parseAddress(s)
		*to = append(*to, address)
		return err
	}
}
