package transporttest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postbus/postbus/transport"
)

// compare reports the differences between a received message and what it should be.
// What only the receiver knows (From, ReplyTo, To, ReceivedTime) is not compared.
func (e *env) compare(what string, got, want *transport.Message) {
	e.Helper()
	differ := func(field string, got, want any) {
		e.Helper()
		e.Errorf("%s: %s is %v, want %v", what, field, got, want)
	}
	if got.Kind != want.Kind {
		differ("Kind", got.Kind, want.Kind)
	}
	if got.Name != want.Name {
		differ("Name", got.Name, want.Name)
	}
	if !bytes.Equal(got.Body, want.Body) {
		differ("Body", excerpt(got.Body), excerpt(want.Body))
	}
	if got.ContentType != want.ContentType {
		differ("ContentType", fmt.Sprintf("%q", got.ContentType), fmt.Sprintf("%q", want.ContentType))
	}
	if got.Filename != want.Filename {
		differ("Filename", fmt.Sprintf("%q", got.Filename), fmt.Sprintf("%q", want.Filename))
	}
	e.compareHeader(what, got.Header, want.Header)
	if !sameTime(got.Info.SourceTime, want.Info.SourceTime) {
		differ("Info.SourceTime", got.Info.SourceTime, want.Info.SourceTime)
	}
	if got.Info.PublisherGID != want.Info.PublisherGID {
		differ("Info.PublisherGID", got.Info.PublisherGID, want.Info.PublisherGID)
	}
	if got.Info.Sequence != want.Info.Sequence {
		differ("Info.Sequence", got.Info.Sequence, want.Info.Sequence)
	}
	if got.Info.ClientGID != want.Info.ClientGID {
		differ("Info.ClientGID", got.Info.ClientGID, want.Info.ClientGID)
	}
	if got.Info.RequestSequence != want.Info.RequestSequence {
		differ("Info.RequestSequence", got.Info.RequestSequence, want.Info.RequestSequence)
	}
	if got.ID != want.ID {
		differ("ID", got.ID, want.ID)
	}
	if got.InReplyTo != want.InReplyTo {
		differ("InReplyTo", got.InReplyTo, want.InReplyTo)
	}
	if !sameTime(got.Deadline, want.Deadline) {
		differ("Deadline", got.Deadline, want.Deadline)
	}
	if (got.Error == nil) != (want.Error == nil) || got.Error != nil && *got.Error != *want.Error {
		differ("Error", got.Error, want.Error)
	}
}

func sameTime(a, b time.Time) bool { return a.Equal(b) && a.IsZero() == b.IsZero() }

// compareHeader compares header fields: for each name in any case the same values in
// the same order. The order among different names is not a carrier's to keep.
func (e *env) compareHeader(what string, got, want transport.Header) {
	e.Helper()
	if len(got) != len(want) {
		e.Errorf("%s: %d header fields, want %d: %q", what, len(got), len(want), got)
	}
	for _, f := range want {
		if g, w := got.Values(f.Name), want.Values(f.Name); !slices.Equal(g, w) {
			e.Errorf("%s: header field %s has the values %q, want %q", what, f.Name, g, w)
		}
	}
}

// compareNames checks that messages have these names, in any order.
func (e *env) compareNames(pattern string, got []*transport.Message, want []string) {
	e.Helper()
	var have []string
	for _, m := range got {
		if m.Name != markerName {
			have = append(have, m.Name)
		}
	}
	slices.Sort(have)
	want = slices.Sorted(slices.Values(want))
	if !slices.Equal(have, want) {
		e.Errorf("the pattern %s got %q, want %q", pattern, have, want)
	}
}

// wantError checks that err is there and wraps all of want.
func (e *env) wantError(what string, err error, want ...error) {
	e.Helper()
	if err == nil {
		e.Errorf("%s: no error", what)
		return
	}
	for _, w := range want {
		if !errors.Is(err, w) {
			e.Errorf("%s: error %q does not wrap %q", what, err, w)
		}
	}
}

// excerpt shows a body, shortened.
func excerpt(body []byte) string {
	const most = 60
	if len(body) <= most {
		return fmt.Sprintf("%q", body)
	}
	return fmt.Sprintf("%q… (%d bytes)", body[:most], len(body))
}

// names lists the names of messages for error messages, shortened.
func names(messages []*transport.Message) string {
	const most = 20
	var list []string
	for _, m := range messages[:min(len(messages), most)] {
		list = append(list, fmt.Sprintf("%s#%d", m.Name, m.Info.Sequence))
	}
	if len(messages) > most {
		list = append(list, "…")
	}
	return "[" + strings.Join(list, " ") + "]"
}

// wantSendError checks that err is a *transport.SendError with this outcome.
func (e *env) wantSendError(what string, err error, outcome transport.Outcome) {
	e.Helper()
	var sendErr *transport.SendError
	if !errors.As(err, &sendErr) {
		e.Errorf("%s: error %q is no *transport.SendError", what, err)
		return
	}
	if sendErr.Outcome != outcome {
		e.Errorf("%s: the outcome is %v, want %v", what, sendErr.Outcome, outcome)
	}
}
