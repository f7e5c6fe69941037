package service

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"
	"unicode/utf8"

	"github.com/postbus/postbus/transport"
)

// answer is what makes the answer to a request, besides the request itself. The zero value is none.
type answer struct {
	sequence uint64
	time     time.Time
	body     []byte
	err      *transport.RemoteError // nil in a result
	options  []transport.MessageOption
}

// message returns the answer of the server to a request. Made again, it is the same.
func (a *answer) message(server transport.GID, request *transport.Message) *transport.Message {
	made := new(struct {
		transport.Message
		to [1]string
	})
	m := &made.Message
	m.Kind = transport.Response
	if a.err != nil {
		m.Kind = transport.ErrorResponse
	}
	m.Name, m.Body, m.Error = request.Name, a.body, a.err
	m.InReplyTo = request.ID
	made.to[0] = request.ReplyTo
	m.To = made.to[:]
	m.Info = transport.Info{
		SourceTime:      a.time,
		PublisherGID:    server,
		Sequence:        a.sequence,
		ClientGID:       request.Info.ClientGID,
		RequestSequence: request.Info.RequestSequence,
	}
	for _, o := range a.options {
		o(m)
	}
	return m
}

// remoteError returns what a client is told about err. The methods of err are the
// program's, and a panic in one must not cost the client its answer.
func remoteError(err error) (remote *transport.RemoteError) {
	defer func() {
		if recover() != nil {
			remote = &transport.RemoteError{Code: CodeError, Text: fmt.Sprintf("an error (%T)", err)}
		}
	}()
	switch {
	case errors.As(err, &remote) && remote != nil:
	case errors.Is(err, context.DeadlineExceeded):
		remote = &transport.RemoteError{Code: CodeDeadline, Text: err.Error()}
	default:
		remote = &transport.RemoteError{Code: CodeError, Text: err.Error()}
	}
	if remote.Code < math.MinInt32 || remote.Code > math.MaxInt32 {
		remote = &transport.RemoteError{Code: CodeError, Text: fmt.Sprintf("error %d: %s", remote.Code, remote.Text)}
	}
	if len(remote.Text) > transport.MaxErrorText {
		return &transport.RemoteError{Code: remote.Code, Text: cut(remote.Text, transport.MaxErrorText)}
	}
	return remote
}

// cut shortens a text to at most limit bytes, between characters.
func cut(text string, limit int) string {
	const more = "…"
	end := limit - len(more)
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + more
}
