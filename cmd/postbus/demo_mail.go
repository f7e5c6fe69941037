package main

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"sync"
	"unicode"

	"github.com/postbus/postbus/transport"
)

// maxShownLines is how many lines of a mail are shown: providers add many of their own.
const maxShownLines = 80

// mailRecorder keeps the mails that the demo shows: the first message of the talker, and
// the first request of the client with its response. Others may use the same mailbox.
type mailRecorder struct {
	mu                       sync.Mutex
	senders                  []transport.GID
	message, request, answer []byte
	requestID                transport.ID
}

// watch has the mails of a publisher or client recorded.
func (r *mailRecorder) watch(sender transport.GID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.senders = append(r.senders, sender)
}

// record is called for each mail that arrives. raw is only lent.
func (r *mailRecorder) record(raw []byte, m *transport.Message) {
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

// showMails prints what was recorded.
func (d *demo) showMails() error {
	d.section("The e-mails", "Some of the above as it travelled. Any mail program can show them.")
	d.mails.mu.Lock()
	defer d.mails.mu.Unlock()
	for _, mail := range []struct {
		title string
		raw   []byte
	}{
		{"A message on " + topicName, d.mails.message},
		{"A request to " + adderName, d.mails.request},
		{"The response: In-Reply-To is the Message-ID of the request", d.mails.answer},
	} {
		if mail.raw == nil {
			return errors.New("an e-mail that was delivered has not been seen: " + mail.title)
		}
		d.printf("\n   --- %s %s", mail.title, strings.Repeat("-", max(3, 90-len(mail.title))))
		d.printf("%s", indented(mail.raw))
	}
	return nil
}

// indented returns a mail as lines of text that are safe for a terminal.
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
