package raw

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
)

// Submitter hands mails over to a server, over one connection.
type Submitter struct {
	*Conn
	lmtp       bool
	pipelining bool
	chunking   bool
	from, to   string
	buffer     []byte
	tag        int
	folder     string // of APPEND; then there is no SMTP at all
}

// OpenSubmitter logs in for sending from the account to itself.
func OpenSubmitter(ctx context.Context, a Account) (*Submitter, error) {
	e, err := Parse(a.SMTP, "smtps")
	if err != nil {
		return nil, err
	}
	c, err := e.Dial(ctx, a.CA)
	if err != nil {
		return nil, err
	}
	s := &Submitter{Conn: c, lmtp: e.Protocol == "lmtp", from: a.Address, to: a.Address}
	if e.Protocol == "imap" {
		if s.folder = e.Folder; s.folder == "" {
			s.folder = "INBOX"
		}
		err = c.login(a)
	} else {
		err = s.hello(a)
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("bench: %s at %s: %w", e.Protocol, e.Address, err)
	}
	return s, nil
}

func (s *Submitter) hello(a Account) error {
	verb := "EHLO"
	if s.lmtp {
		verb = "LHLO"
	}
	offered, err := s.say(verb + " localhost")
	if err != nil {
		return err
	}
	auth := false
	for _, extension := range strings.Split(offered, "\n") {
		switch name, _, _ := strings.Cut(extension, " "); name {
		case "PIPELINING":
			s.pipelining = true
		case "CHUNKING":
			s.chunking = true
		case "AUTH":
			auth = true
		}
	}
	if !auth {
		return nil
	}
	secret := base64.StdEncoding.EncodeToString([]byte("\x00" + a.Username + "\x00" + a.Password))
	_, err = s.say("AUTH PLAIN " + secret)
	return err
}

// say sends a command and returns the text of the answer.
func (c *Conn) say(command string) (string, error) {
	if err := c.write([]byte(command + "\r\n")); err != nil {
		return "", err
	}
	verb, _, _ := strings.Cut(command, " ")
	return c.reply(verb)
}

// reply reads an answer, and makes one that says no an error.
func (c *Conn) reply(to string) (string, error) {
	var text []byte
	for {
		line, err := c.line()
		if err != nil {
			return "", err
		}
		if len(line) < 3 {
			return "", fmt.Errorf("answer to %s: %q", to, line)
		}
		more := len(line) > 3 && line[3] == '-'
		code := line[0]
		if more || len(line) > 4 {
			text = append(append(text, line[4:]...), '\n')
		}
		if more {
			continue
		}
		if code != '2' && code != '3' {
			return "", fmt.Errorf("answer to %s: %s", to, line)
		}
		return string(text), nil
	}
}

// Deep reports whether Start can be called again before Finish.
func (s *Submitter) Deep() bool { return s.chunking && s.pipelining && s.folder == "" }

// Submit hands a mail over, and returns when the server has taken it.
func (s *Submitter) Submit(mail []byte) error {
	if err := s.Start(mail); err != nil {
		return err
	}
	return s.Finish()
}

// Start sends a mail, with a Finish to follow. If the server takes chunks that is one flight, and nothing
// need be waited for.
func (s *Submitter) Start(mail []byte) error {
	b := s.buffer[:0]
	defer func() { s.buffer = b[:0] }()
	if s.folder != "" {
		s.tag++
		b = fmt.Appendf(b, "a%d APPEND \"%s\" {%d+}\r\n", s.tag, s.folder, len(mail))
		b = append(append(b, mail...), '\r', '\n')
		return s.write(b)
	}
	b = append(b, "MAIL FROM:<"+s.from+">\r\n"...)
	if !s.pipelining {
		if _, err := s.say(string(bytes.TrimSpace(b))); err != nil {
			return err
		}
		b = b[:0]
	}
	b = append(b, "RCPT TO:<"+s.to+">\r\n"...)
	if !s.pipelining {
		if _, err := s.say(string(bytes.TrimSpace(b))); err != nil {
			return err
		}
		b = b[:0]
	}
	if s.chunking {
		b = append(strconv.AppendInt(append(b, "BDAT "...), int64(len(mail)), 10), " LAST\r\n"...)
		return s.write(append(b, mail...))
	}
	if err := s.write(append(b, "DATA\r\n"...)); err != nil {
		return err
	}
	if err := s.replies(); err != nil {
		return err
	}
	if _, err := s.reply("DATA"); err != nil {
		return err
	}
	// Our mails have no line with a dot at its beginning.
	return s.write(append(append(b[:0], mail...), ".\r\n"...))
}

// replies reads the answers to MAIL and RCPT that are still to come.
func (s *Submitter) replies() error {
	if !s.pipelining {
		return nil
	}
	if _, err := s.reply("MAIL"); err != nil {
		return err
	}
	_, err := s.reply("RCPT")
	return err
}

// Finish waits until the server has taken the mail of a Start.
func (s *Submitter) Finish() error {
	if s.folder != "" {
		return s.status("a")
	}
	if s.chunking {
		if err := s.replies(); err != nil {
			return err
		}
	}
	_, err := s.reply("the mail") // LMTP: one for each recipient
	return err
}
