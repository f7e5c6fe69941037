package bench

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/postbus/postbus/internal/bench/raw"
)

// Traffic is what has been said to the servers.
type Traffic struct {
	Connections uint64 `json:"connections"`
	SMTP        uint64 `json:"smtp_commands"`
	IMAP        uint64 `json:"imap_commands"`
}

// Counter counts connections and commands to mail servers: by proxies on loopback that see plain text, and
// speak to the servers as their URLs say. They cost time, so what is counted is not what is
// timed.
type Counter struct {
	// SMTP and IMAP are the URLs to use instead of the servers'.
	SMTP, IMAP string

	ctx                context.Context
	stop               context.CancelFunc
	listeners          []net.Listener
	running            sync.WaitGroup
	connections        atomic.Uint64
	smtpSaid, imapSaid atomic.Uint64
}

// Count starts a counter for the servers of an account.
func Count(account raw.Account) (*Counter, error) {
	c := new(Counter)
	c.ctx, c.stop = context.WithCancel(context.Background())
	var err error
	if c.SMTP, err = c.listen(account.SMTP, "smtps", account.CA); err == nil {
		c.IMAP, err = c.listen(account.IMAP, "imaps", account.CA)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Traffic returns what has been counted so far.
func (c *Counter) Traffic() Traffic {
	return Traffic{Connections: c.connections.Load(), SMTP: c.smtpSaid.Load(), IMAP: c.imapSaid.Load()}
}

// Since returns what was counted after an earlier Traffic.
func (t Traffic) Since(before Traffic) Traffic {
	return Traffic{t.Connections - before.Connections, t.SMTP - before.SMTP, t.IMAP - before.IMAP}
}

// Close ends all connections.
func (c *Counter) Close() {
	c.stop()
	for _, l := range c.listeners {
		l.Close()
	}
	c.running.Wait()
}

// listen starts a proxy for a server and returns its URL.
func (c *Counter) listen(server, bare string, ca []byte) (string, error) {
	e, err := raw.Parse(server, bare)
	if err != nil {
		return "", err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	c.listeners = append(c.listeners, l)
	c.running.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			c.connections.Add(1)
			c.running.Go(func() { c.serve(client, e, ca) })
		}
	})
	url := e.Protocol + "+insecure://" + l.Addr().String()
	if e.Folder != "" {
		url += "/" + e.Folder
	}
	return url, nil
}

// serve passes one connection on.
func (c *Counter) serve(client net.Conn, e raw.Endpoint, ca []byte) {
	defer client.Close()
	server, err := e.Dial(c.ctx, ca)
	if err != nil {
		return // the client sees that there is no server
	}
	stop := context.AfterFunc(c.ctx, func() { client.Close(); server.Close() })
	defer stop()
	defer server.Close()
	if _, err := io.WriteString(client, server.Greeting); err != nil {
		return
	}
	commands := &commandCounter{imap: e.Protocol == "imap", said: &c.smtpSaid}
	if commands.imap {
		commands.said = &c.imapSaid
	}
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(client, server.Reader)
		client.Close()
	})
	_, _ = io.Copy(server.Conn, io.TeeReader(client, commands))
	server.Close()
	back.Wait()
}

// commandCounter counts the commands in what a client says. It trusts clients to send
// what is not a command only where it may be: a mail after DATA, or after its announced size.
type commandCounter struct {
	imap bool
	said *atomic.Uint64
	line []byte
	skip int  // bytes that follow and are no lines
	data bool // in a mail, up to the line with a dot
	open bool // the command before goes on behind its literal
}

// Write implements io.Writer.
func (c *commandCounter) Write(b []byte) (int, error) {
	all := len(b)
	for len(b) > 0 {
		if c.skip > 0 {
			n := min(c.skip, len(b))
			c.skip -= n
			b = b[n:]
			continue
		}
		end := bytes.IndexByte(b, '\n')
		if end < 0 {
			c.line = append(c.line, b...)
			if len(c.line) > 1<<20 {
				return 0, errors.New("a line without end")
			}
			break
		}
		c.line = append(c.line, b[:end]...)
		b = b[end+1:]
		line := strings.TrimSuffix(string(c.line), "\r")
		c.line = c.line[:0]
		if c.imap {
			c.imapLine(line)
		} else {
			c.smtpLine(line)
		}
	}
	return all, nil
}

// imapLine counts a tagged command. DONE belongs to IDLE.
func (c *commandCounter) imapLine(line string) {
	if !c.open && line != "" && !strings.EqualFold(line, "DONE") {
		c.said.Add(1)
	}
	c.open = false
	if open := strings.LastIndexByte(line, '{'); open >= 0 && strings.HasSuffix(line, "}") {
		if size, err := strconv.Atoi(strings.TrimSuffix(line[open+1:len(line)-1], "+")); err == nil {
			c.skip, c.open = size, true
		}
	}
}

// smtpVerbs are the commands that clients use; other lines answer AUTH.
var smtpVerbs = map[string]bool{"EHLO": true, "LHLO": true, "HELO": true, "AUTH": true, "MAIL": true, "RCPT": true, "DATA": true,
	"BDAT": true, "RSET": true, "NOOP": true, "QUIT": true, "VRFY": true}

func (c *commandCounter) smtpLine(line string) {
	if c.data {
		c.data = line != "."
		return
	}
	verb, rest, _ := strings.Cut(line, " ")
	verb = strings.ToUpper(verb)
	if !smtpVerbs[verb] {
		return
	}
	c.said.Add(1)
	switch verb {
	case "DATA":
		c.data = true
	case "BDAT":
		size, _, _ := strings.Cut(rest, " ")
		c.skip, _ = strconv.Atoi(size)
	}
}
