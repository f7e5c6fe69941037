package main

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/postbus/postbus"
	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/transport"
)

// maxShownLines is how many lines of a message are shown: providers of mail add many of their own.
const maxShownLines = 80

// newMailDemo returns a demo whose nodes are on mail accounts, and whose mails are recorded. Programs call
// postbus.Open, or postbus.OpenConfig, which record nothing.
func newMailDemo(a *app, patience time.Duration) *demo {
	d := newDemo(a, patience, "by e-mail")
	d.unit = "mails"
	d.openNode = func(ctx context.Context, config email.Config) (*transport.Node, error) {
		carrier, err := email.Open(ctx, config, email.Options{Logger: d.logger, OnMail: d.wire.record})
		if err != nil {
			return nil, err
		}
		return postbus.New(carrier, &transport.Options{Logger: d.logger})
	}
	d.showWire = func() error {
		return d.showMessages("The e-mails", "Some of the above as it travelled. Any mail program can show them.")
	}
	return d
}

// recorder keeps the messages that the demo shows as they travelled: the first of the talker, and
// the first request of the client with its response. Others may use the same mailbox or server.
type recorder struct {
	mu                       sync.Mutex
	senders                  []transport.GID
	message, request, answer []byte
	requestID                transport.ID
}

// watch has what a publisher or client sends recorded.
func (r *recorder) watch(sender transport.GID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.senders = append(r.senders, sender)
}

// record is called for each message that arrives. raw is only lent.
func (r *recorder) record(raw []byte, m *transport.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ours := slices.Contains(r.senders, m.Info.PublisherGID)
	switch {
	case r.message == nil && m.Kind == transport.TopicMessage && ours:
		r.message = bytes.Clone(raw)
	case r.request == nil && m.Kind == transport.Request && ours:
		r.request, r.requestID = bytes.Clone(raw), m.ID
	case r.answer == nil && m.Kind == transport.Response && r.request != nil && m.InReplyTo == r.requestID:
		r.answer = bytes.Clone(raw)
	}
}

// showMessages prints what was recorded.
func (d *demo) showMessages(title, text string) error {
	d.section(title, text)
	d.wire.mu.Lock()
	defer d.wire.mu.Unlock()
	for _, m := range []struct {
		title string
		raw   []byte
	}{
		{"A message on " + topicName, d.wire.message},
		{"A request to " + adderName, d.wire.request},
		{"The response: In-Reply-To is the Message-ID of the request", d.wire.answer},
	} {
		if m.raw == nil {
			return errors.New("a message that was delivered has not been seen: " + m.title)
		}
		d.printf("\n   --- %s %s", m.title, strings.Repeat("-", max(3, 90-len(m.title))))
		d.printf("%s", indented(m.raw))
	}
	return nil
}

// indented returns a message as lines of text that are safe for a terminal.
func indented(raw []byte) string {
	lines := strings.Split(strings.TrimRight(string(raw), "\r\n"), "\n")
	if len(lines) > maxShownLines {
		lines = append(lines[:maxShownLines], "...")
	}
	for i, line := range lines {
		lines[i] = strings.TrimRight("   "+strings.Map(func(r rune) rune {
			if r != '\t' && !unicode.IsPrint(r) {
				return '?'
			}
			return r
		}, strings.TrimRight(line, "\r")), " ")
	}
	return strings.Join(lines, "\n")
}
