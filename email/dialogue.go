package email

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/emersion/go-smtp"
)

const (
	// maxReply is the most that a server may send between two flights of commands, in bytes: it could
	// send lines of a reply for as long as they are read.
	maxReply = 128 << 10
	// maxReplyLine is the longest line of a reply. RFC 5321 section 4.5.3.1.5 allows 512.
	maxReplyLine = 2048
)

// dialogue is a connection on which go-smtp's client and our own commands take turns. It holds what has
// been received and gives the client a line at a time, so that nothing stays behind in the
// client's own buffer.
type dialogue struct {
	net.Conn
	lines *bufio.Reader
	left  int // of maxReply
}

func newDialogue(conn net.Conn) *dialogue {
	return &dialogue{Conn: conn, lines: bufio.NewReaderSize(conn, maxReplyLine), left: maxReply}
}

// afterStartTLS returns the dialogue that goes on over conn after STARTTLS. There is no greeting then, but
// go-smtp's client waits for one.
func afterStartTLS(conn net.Conn) *dialogue {
	d := newDialogue(conn)
	d.lines.Reset(io.MultiReader(strings.NewReader("220 secured\r\n"), conn))
	return d
}

// Write implements net.Conn.
func (d *dialogue) Write(b []byte) (int, error) {
	d.left = maxReply
	return d.Conn.Write(b)
}

// Read implements net.Conn, for go-smtp's client. It returns no more than the rest of a line.
func (d *dialogue) Read(b []byte) (int, error) {
	if d.left <= 0 {
		return 0, errTooMuch
	}
	if _, err := d.lines.Peek(1); err != nil {
		return 0, err
	}
	held, err := d.lines.Peek(min(d.lines.Buffered(), len(b)))
	if err != nil {
		return 0, err
	}
	if end := bytes.IndexByte(held, '\n'); end >= 0 {
		held = held[:end+1]
	}
	n := copy(b, held)
	d.left -= n
	_, err = d.lines.Discard(n)
	return n, err
}

var errTooMuch = fmt.Errorf("the server sends more than %d bytes in reply", maxReply)

// reply reads one reply, of one line or more (RFC 5321 section 4.2.1), whatever it says.
func (d *dialogue) reply(patience time.Duration) (*smtp.SMTPError, error) {
	if err := d.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	var text []byte
	for code := 0; ; {
		line, err := d.line()
		if err != nil {
			return nil, err
		}
		number, rest, more, ok := parseReplyLine(line)
		if !ok || code != 0 && number != code {
			return nil, fmt.Errorf("the server sends %.80q where a reply is due", line)
		}
		if code != 0 {
			text = append(text, '\n')
		}
		code, text = number, append(text, rest...)
		if !more {
			return newReply(code, string(text)), nil
		}
	}
}

// line reads a line without its end; it is valid until the next one is read.
func (d *dialogue) line() ([]byte, error) {
	line, err := d.lines.ReadSlice('\n')
	if d.left -= len(line); d.left < 0 {
		return nil, errTooMuch
	}
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, fmt.Errorf("the server sends a line of more than %d bytes", maxReplyLine)
	case errors.Is(err, io.EOF) && len(line) > 0:
		return nil, io.ErrUnexpectedEOF
	}
	return bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r")), err
}

// parseReplyLine takes a line of a reply apart, and says whether more lines follow.
func parseReplyLine(line []byte) (code int, text []byte, more, ok bool) {
	if len(line) < 3 || len(line) > 3 && line[3] != ' ' && line[3] != '-' {
		return 0, nil, false, false
	}
	for _, digit := range line[:3] {
		if digit < '0' || digit > '9' {
			return 0, nil, false, false
		}
		code = 10*code + int(digit-'0')
	}
	if len(line) > 3 {
		text, more = line[4:], line[3] == '-'
	}
	return code, text, more, code >= 100
}

// newReply takes the enhanced code (RFC 2034), which each line begins with, out of the text.
func newReply(code int, text string) *smtp.SMTPError {
	reply := &smtp.SMTPError{Code: code, Message: text}
	if code < 400 {
		return reply // nobody asks
	}
	enhanced, rest, _ := strings.Cut(text, " ")
	parts := strings.Split(enhanced, ".")
	if len(parts) != len(reply.EnhancedCode) {
		return reply
	}
	var numbers smtp.EnhancedCode
	for i, part := range parts {
		number, err := strconv.ParseUint(part, 10, 16)
		if err != nil {
			return reply
		}
		numbers[i] = int(number)
	}
	reply.EnhancedCode, reply.Message = numbers, strings.ReplaceAll(rest, "\n"+enhanced+" ", "\n")
	return reply
}
