package mailserver

import (
	"fmt"
	"log/slog"
	"net"
	"net/mail"
	"strings"
	"time"
)

// Account is a user of the server: one address with its own mailboxes.
type Account struct {
	// Address is the mail address and also the user name for AUTH and LOGIN.
	Address string
	// Password is compared byte for byte. It must not be empty.
	Password string
}

// DefaultAccounts returns the accounts of a [Config] that names none:
// robot@localhost.test with the password "robot" and peer@localhost.test with
// the password "peer".
func DefaultAccounts() []Account {
	return []Account{
		{Address: "robot@localhost.test", Password: "robot"},
		{Address: "peer@localhost.test", Password: "peer"},
	}
}

// Config describes a server. The zero value is useful.
type Config struct {
	// SMTPAddr and IMAPAddr are the host:port to listen on; port 0 picks a free
	// one. Both default to "127.0.0.1:0". Without TLS they serve plaintext and
	// the host must be a loopback address; with TLS they serve TLS from the
	// first byte (RFC 8314).
	SMTPAddr, IMAPAddr string

	// TLS makes the server generate a certificate and speak TLS. It adds the two
	// listeners below.
	TLS bool
	// SMTPStartTLSAddr and IMAPStartTLSAddr are where STARTTLS is served, with
	// TLS only. Both default to "127.0.0.1:0". Passwords are not accepted there
	// before STARTTLS.
	SMTPStartTLSAddr, IMAPStartTLSAddr string

	// LMTPAddr is where LMTP (RFC 2033) is served besides: host:port on loopback, or the path of a
	// socket, which begins with a slash. There is no login: whoever reaches it may deliver. Empty for
	// none.
	LMTPAddr string

	// Hostname is the server's name in greetings, in Received fields, in the
	// Message-IDs it makes and in its certificate. Default "localhost".
	Hostname string

	// Accounts are the server's users, [DefaultAccounts] if empty.
	Accounts []Account

	// MaxMessageBytes limits one mail, by SMTP and by APPEND: 64 MiB if 0.
	MaxMessageBytes int64
	// MaxMailboxMessages and MaxMailboxBytes limit what all mailboxes of one
	// account hold together: 1,000,000 messages and 1 GiB if 0.
	MaxMailboxMessages int
	MaxMailboxBytes    int64
	// MaxConnections limits the connections open at a time, for SMTP and IMAP
	// each: 256 if 0. Further ones are turned away.
	MaxConnections int
	// IdleTimeout is how long a connection may be silent before it is closed. If
	// 0: five minutes for SMTP (RFC 5321 section 4.5.3.2.7), and for IMAP 30 s
	// before and 35 min after login (RFC 9051 section 5.4); it never prolongs
	// those of IMAP.
	IdleTimeout time.Duration

	// Logger receives the server's log, which is discarded if nil. Passwords and
	// contents of mails are never logged.
	Logger *slog.Logger
}

// Limits that are not worth a setting.
const (
	// maxRecipients of one mail; RFC 5321 section 4.5.3.1.8 asks for 100.
	maxRecipients = 1000
	// maxLineLength of a line in bytes. RFC 5321 section 4.5.3.1.6 asks for
	// 1000, but a test server should survive clients that do not fold.
	maxLineLength = 128 << 10
	// maxMailboxes of one account, and the length of a mailbox's name in bytes.
	maxMailboxes       = 1000
	maxMailboxName     = 512
	smtpWriteTimeout   = time.Minute
	updateTimeout      = 30 * time.Second
	handshakeTimeout   = 30 * time.Second
	defaultSMTPTimeout = 5 * time.Minute
)

// withDefaults returns the configuration with every default filled in, or what
// is wrong with it.
func (c Config) withDefaults() (Config, error) {
	setDefault(&c.SMTPAddr, "127.0.0.1:0")
	setDefault(&c.IMAPAddr, "127.0.0.1:0")
	setDefault(&c.SMTPStartTLSAddr, "127.0.0.1:0")
	setDefault(&c.IMAPStartTLSAddr, "127.0.0.1:0")
	setDefault(&c.Hostname, "localhost")
	setDefault(&c.MaxMessageBytes, 64<<20)
	setDefault(&c.MaxMailboxMessages, 1_000_000)
	setDefault(&c.MaxMailboxBytes, 1<<30)
	setDefault(&c.MaxConnections, 256)
	if len(c.Accounts) == 0 {
		c.Accounts = DefaultAccounts()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, c.check()
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (c *Config) check() error {
	if c.MaxMessageBytes < 0 || c.MaxMailboxMessages < 0 || c.MaxMailboxBytes < 0 ||
		c.MaxConnections < 0 || c.IdleTimeout < 0 {
		return fmt.Errorf("mailserver: a limit is negative")
	}
	if !plainWord(c.Hostname) {
		return fmt.Errorf("mailserver: %q is not a host name", c.Hostname)
	}
	seen := make(map[string]bool)
	for _, account := range c.Accounts {
		// The address ends up in SMTP commands and header fields, so only plain
		// ones are accepted: no display name, no quoting.
		parsed, err := mail.ParseAddress(account.Address)
		if err != nil || parsed.Address != account.Address {
			return fmt.Errorf("mailserver: %q is not a mail address", account.Address)
		}
		if account.Password == "" {
			return fmt.Errorf("mailserver: the account %s has no password", account.Address)
		}
		if seen[addressKey(account.Address)] {
			return fmt.Errorf("mailserver: the account %s is there twice", account.Address)
		}
		seen[addressKey(account.Address)] = true
	}
	plain := []string{c.SMTPAddr, c.IMAPAddr}
	if c.TLS {
		plain = nil
	}
	if c.LMTPAddr != "" && networkOf(c.LMTPAddr) == "tcp" {
		plain = append(plain, c.LMTPAddr)
	}
	for _, addr := range plain {
		if err := checkLoopback(addr); err != nil {
			return err
		}
	}
	return nil
}

// networkOf returns how package net calls the network of an address.
func networkOf(addr string) string {
	if strings.HasPrefix(addr, "/") {
		return "unix"
	}
	return "tcp"
}

// checkLoopback refuses addresses that other machines can reach: without TLS
// their passwords would cross the network in the clear, and LMTP wants none.
func checkLoopback(addr string) error {
	tcp, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return fmt.Errorf("mailserver: listen address %q: %w", addr, err)
	}
	if !tcp.IP.IsLoopback() {
		return fmt.Errorf("mailserver: refusing to serve plaintext on %q, which is not a loopback address: switch TLS on, or choose another address for LMTP", addr)
	}
	return nil
}

// addressKey is what two spellings of one address have in common. RFC 5321
// section 2.4 lets a host treat local parts without regard to case, and nearly
// all do.
func addressKey(address string) string { return strings.ToLower(address) }

// plainWord reports whether s can stand in a header field as a host name or
// address literal does.
func plainWord(s string) bool {
	for _, r := range s {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune(".-_:[]", r):
		default:
			return false
		}
	}
	return s != ""
}
