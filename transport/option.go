package transport

import "time"

// MessageOption changes a message before it is sent: an extra of one Publish, Call or
// Respond. Those of an answer are called once more, from another goroutine, each time that it has to be sent
// again because its request has come again: what they do must be the same then.
type MessageOption func(*Message)

// WithHeader adds a header field of the application. See Header.Validate for limits.
func WithHeader(name, value string) MessageOption {
	return func(m *Message) { m.Header.Add(name, value) }
}

// WithSourceTime sets the time at which the message counts as published, which is
// the current time otherwise.
func WithSourceTime(t time.Time) MessageOption {
	return func(m *Message) { m.Info.SourceTime = t }
}

// WithContentType declares the media type of the body (RFC 2045 section 5.1).
func WithContentType(mediaType string) MessageOption {
	return func(m *Message) { m.ContentType = mediaType }
}

// WithFile says that the body is a file of this name (see ValidateFilename). Its type is
// what WithContentType declares: it is not guessed from the name, because the same
// program would then send other types on other machines.
func WithFile(name string) MessageOption {
	return func(m *Message) { m.Filename = name }
}
