package raw

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// Fetcher looks into an inbox without pause.
type Fetcher struct {
	*Conn
	next uint32 // the UID after the highest one seen
	body []byte
}

// OpenFetcher opens the inbox of an account, at its end.
func OpenFetcher(ctx context.Context, a Account) (*Fetcher, error) {
	e, err := Parse(a.IMAP, "imaps")
	if err != nil {
		return nil, err
	}
	if e.Protocol != "imap" {
		return nil, fmt.Errorf("bench: %s is no inbox", a.IMAP)
	}
	c, err := e.Dial(ctx, a.CA)
	if err != nil {
		return nil, err
	}
	f := &Fetcher{Conn: c}
	folder := e.Folder
	if folder == "" {
		folder = "INBOX"
	}
	if err := f.open(a, folder); err != nil {
		c.Close()
		return nil, fmt.Errorf("bench: imap at %s: %w", e.Address, err)
	}
	return f, nil
}

func (f *Fetcher) open(a Account, folder string) error {
	if err := f.login(a); err != nil {
		return err
	}
	answer, err := f.command(`b SELECT "` + folder + `"`)
	if err != nil {
		return err
	}
	_, after, found := strings.Cut(answer, "[UIDNEXT ")
	if !found {
		return fmt.Errorf("the server does not tell UIDNEXT")
	}
	number, _, _ := strings.Cut(after, "]")
	next, err := strconv.ParseUint(number, 10, 32)
	f.next = uint32(next)
	return err
}

// login logs in on a fresh IMAP connection.
func (c *Conn) login(a Account) error {
	quote := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	_, err := c.command(`l LOGIN "` + quote.Replace(a.Username) + `" "` + quote.Replace(a.Password) + `"`)
	return err
}

// command sends a command and returns the untagged responses. They must not have literals.
func (c *Conn) command(text string) (string, error) {
	if err := c.write([]byte(text + "\r\n")); err != nil {
		return "", err
	}
	tag, rest, _ := strings.Cut(text, " ")
	verb, _, _ := strings.Cut(rest, " ")
	var answer strings.Builder
	for {
		line, err := c.line()
		if err != nil {
			return "", err
		}
		if status, ok := bytes.CutPrefix(line, []byte(tag+" ")); ok {
			if !bytes.HasPrefix(status, []byte("OK")) {
				return "", fmt.Errorf("answer to %s: %s", verb, status)
			}
			return answer.String(), nil
		}
		answer.Write(line)
		answer.WriteByte('\n')
	}
}

// status reads up to the end of a command whose tag begins so.
func (c *Conn) status(tag string) error {
	for {
		line, err := c.line()
		if err != nil {
			return err
		}
		if !bytes.HasPrefix(line, []byte(tag)) {
			continue
		}
		if _, status, _ := bytes.Cut(line, []byte(" ")); !bytes.HasPrefix(status, []byte("OK")) {
			return fmt.Errorf("answer: %s", line)
		}
		return nil
	}
}

// Fetch asks once for all that is new, and calls visit with each mail. raw is only lent.
func (f *Fetcher) Fetch(ctx context.Context, visit func(raw []byte) error) error {
	stop := context.AfterFunc(ctx, func() { _ = f.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	err := f.fetch(visit)
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (f *Fetcher) fetch(visit func(raw []byte) error) error {
	// Not "n:*", which would always mean the last mail, too.
	if err := f.write(fmt.Appendf(nil, "f UID FETCH %d:4294967295 (UID BODY.PEEK[])\r\n", f.next)); err != nil {
		return err
	}
	for {
		line, err := f.line()
		if err != nil {
			return err
		}
		if bytes.HasPrefix(line, []byte("f ")) {
			if !bytes.HasPrefix(line, []byte("f OK")) {
				return fmt.Errorf("answer to UID FETCH: %s", line)
			}
			return nil
		}
		if !bytes.HasSuffix(line, []byte("}")) {
			continue // EXISTS, and FETCH with flags
		}
		uid, size, err := fetchHead(line)
		if err != nil {
			return err
		}
		if cap(f.body) < size {
			f.body = make([]byte, size)
		}
		f.body = f.body[:size]
		if _, err := io.ReadFull(f.Reader, f.body); err != nil {
			return err
		}
		rest, err := f.line()
		if err != nil {
			return err
		}
		if uid == 0 { // some say it after the body
			uid = number(rest, "UID ")
		}
		f.next = max(f.next, uid+1)
		if err := visit(f.body); err != nil {
			return err
		}
	}
}

// fetchHead reads the beginning of a FETCH response, up to the literal.
func fetchHead(line []byte) (uid uint32, size int, err error) {
	open := bytes.LastIndexByte(line, '{')
	size, err = strconv.Atoi(string(line[open+1 : len(line)-1]))
	return number(line, "UID "), size, err
}

// number returns the number behind a word, or 0.
func number(line []byte, word string) uint32 {
	_, after, found := bytes.Cut(line, []byte(word))
	if !found {
		return 0
	}
	n := uint32(0)
	for _, c := range after {
		if c < '0' || c > '9' {
			break
		}
		n = n*10 + uint32(c-'0')
	}
	return n
}

// Next returns the UID from which on mails are new.
func (f *Fetcher) Next() uint32 { return f.next }

// Remove deletes the mails from a UID on whose Subject has a word.
func (f *Fetcher) Remove(from uint32, word string) error {
	answer, err := f.command(fmt.Sprintf("s UID SEARCH UID %d:* SUBJECT %s", from, word))
	if err != nil {
		return err
	}
	var uids []string
	for line := range strings.Lines(answer) {
		if found, ok := strings.CutPrefix(line, "* SEARCH"); ok {
			uids = strings.Fields(found)
		}
	}
	for len(uids) > 0 {
		n := min(len(uids), 500)
		set := strings.Join(uids[:n], ",")
		uids = uids[n:]
		if _, err := f.command("d UID STORE " + set + ` +FLAGS.SILENT (\Deleted)`); err != nil {
			return err
		}
		if _, err := f.command("e UID EXPUNGE " + set); err != nil {
			return err
		}
	}
	return nil
}
