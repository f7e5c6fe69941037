package main

import (
	"encoding/json"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/postbus/postbus/transport"
)

// displayable returns a body as a person can read it: as it is if it is text, else
// as a quoted string. Bodies come from anybody, and terminals obey control characters.
func displayable(body []byte) string {
	text := string(body)
	if !utf8.ValidString(text) {
		return strconv.Quote(text)
	}
	for _, r := range text {
		if r != '\n' && r != '\t' && !unicode.IsPrint(r) && !unicode.Is(unicode.Zs, r) {
			return strconv.Quote(text)
		}
	}
	return text
}

// writeText writes a message's body as lines of text.
func writeText(w io.Writer, m *transport.Message) error {
	text := displayable(m.Body)
	if !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	_, err := io.WriteString(w, text)
	return err
}

// messageJSON is what "topic echo --json" prints. Its members are part of the command
// line's interface.
type messageJSON struct {
	Topic        string              `json:"topic"`
	Body         *string             `json:"body,omitempty"`
	BodyBase64   []byte              `json:"body_base64,omitempty"`
	ContentType  string              `json:"content_type,omitempty"`
	Header       map[string][]string `json:"header,omitempty"`
	PublisherGID string              `json:"publisher_gid,omitempty"`
	Sequence     uint64              `json:"sequence,omitempty"`
	SourceTime   time.Time           `json:"source_time,omitzero"`
	ReceivedTime time.Time           `json:"received_time,omitzero"`
	From         string              `json:"from,omitempty"`
	MessageID    string              `json:"message_id,omitempty"`
}

// writeJSON writes a message as a line of JSON.
func writeJSON(w io.Writer, m *transport.Message) error {
	j := messageJSON{
		Topic:        m.Name,
		ContentType:  m.ContentType,
		Sequence:     m.Info.Sequence,
		SourceTime:   m.Info.SourceTime.UTC(),
		ReceivedTime: m.Info.ReceivedTime.UTC(),
		From:         m.From,
		MessageID:    m.ID.String(),
	}
	if utf8.Valid(m.Body) {
		body := string(m.Body)
		j.Body = &body
	} else {
		j.BodyBase64 = m.Body
	}
	if !m.Info.PublisherGID.IsZero() {
		j.PublisherGID = m.Info.PublisherGID.String()
	}
	for _, f := range m.Header {
		if j.Header == nil {
			j.Header = make(map[string][]string)
		}
		j.Header[f.Name] = append(j.Header[f.Name], f.Value)
	}
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(j)
}

// isTerminal reports whether a person is likely to look at what is written to w.
func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
