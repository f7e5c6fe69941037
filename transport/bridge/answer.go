package bridge

import (
	"context"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/postbus/postbus/transport"
)

// The codes of the errors with which a bridge itself answers a request. Their numbers are those of HTTP that come
// nearest.
const (
	// CodeUndeliverable: the other side has refused the request, or it came back.
	CodeUndeliverable = 502
	// CodeNoResponder: nobody serves the name on the other side, or that side has been closed.
	CodeNoResponder = 503
	// CodeDeadline: the other side has not answered in time.
	CodeDeadline = 504
)

// answerOf returns what an answer of the other side is as the answer to the original request.
func answerOf(request, answer *transport.Message) *transport.Message {
	back := across(answer, nil)
	back.Header = answer.Header
	back.Name = request.Name
	back.Error = answer.Error
	return addressed(back, request)
}

// errorOf returns an error as the answer to a request.
func errorOf(request *transport.Message, err *transport.RemoteError) *transport.Message {
	return addressed(&transport.Message{Kind: transport.ErrorResponse, Name: request.Name, Error: err}, request)
}

// addressed makes a message the answer to a request.
func addressed(m, request *transport.Message) *transport.Message {
	m.InReplyTo = request.ID
	m.To = []string{request.ReplyTo}
	m.Info.ClientGID = request.Info.ClientGID
	m.Info.RequestSequence = request.Info.RequestSequence
	return m
}

// failure returns what a caller is told when a request could not be answered because of err.
func failure(err error, side string) *transport.RemoteError {
	code := CodeUndeliverable
	switch {
	case errors.Is(err, transport.ErrNoResponder), errors.Is(err, transport.ErrClosed):
		code = CodeNoResponder
	case errors.Is(err, transport.ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		code = CodeDeadline
	}
	text := fmt.Sprintf("no answer from %s: %v", side, err)
	if len(text) > transport.MaxErrorText {
		end := transport.MaxErrorText - len("…")
		for !utf8.RuneStart(text[end]) {
			end--
		}
		text = text[:end] + "…"
	}
	return &transport.RemoteError{Code: code, Text: text}
}
