package service

import (
	"context"
	"fmt"

	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/codec"
)

// TypedClient calls a service with values instead of bytes.
type TypedClient[Req, Resp any] struct {
	*Client
	request  codec.Codec[Req]
	response codec.Codec[Resp]
}

// NewTypedClient is NewClient with the codecs of requests and responses.
func NewTypedClient[Req, Resp any](node *transport.Node, name string, request codec.Codec[Req], response codec.Codec[Resp]) (*TypedClient[Req, Resp], error) {
	c, err := NewClient(node, name)
	if err != nil {
		return nil, err
	}
	return &TypedClient[Req, Resp]{c, request, response}, nil
}

// Call encodes the request, calls the service and decodes its response. Errors: those of
// the codec, those of [Client.Call], and one that wraps codec.ErrDecode if the response
// can't be decoded.
func (c *TypedClient[Req, Resp]) Call(ctx context.Context, request Req, options ...transport.MessageOption) (Resp, error) {
	body, options, err := c.encode(request, options)
	if err != nil {
		var none Resp
		return none, err
	}
	return c.decode(c.Client.Call(ctx, body, options...))
}

// Send is [Client.Send] with an encoded request.
func (c *TypedClient[Req, Resp]) Send(ctx context.Context, request Req, options ...transport.MessageOption) (sequence uint64, err error) {
	body, options, err := c.encode(request, options)
	if err != nil {
		return 0, err
	}
	return c.Client.Send(ctx, body, options...)
}

// Response is [Client.Response] with a decoded response.
func (c *TypedClient[Req, Resp]) Response(ctx context.Context, sequence uint64) (Resp, error) {
	return c.decode(c.Client.Response(ctx, sequence))
}

func (c *TypedClient[Req, Resp]) encode(request Req, options []transport.MessageOption) ([]byte, []transport.MessageOption, error) {
	body, err := c.request.Encode(request)
	if err != nil {
		return nil, nil, fmt.Errorf("call %s: encode: %w", c.name, err)
	}
	return body, append([]transport.MessageOption{transport.WithContentType(c.request.ContentType())}, options...), nil
}

func (c *TypedClient[Req, Resp]) decode(answer *transport.Message, err error) (Resp, error) {
	var none Resp
	if err != nil {
		return none, err
	}
	response, err := codec.Decode(c.response, answer.Body)
	if err != nil {
		return none, fmt.Errorf("call %s: response: %w", c.name, err)
	}
	return response, nil
}

// TypedServer answers the requests of a service with values instead of bytes.
type TypedServer[Req, Resp any] struct {
	*Server
	request  codec.Codec[Req]
	response codec.Codec[Resp]
}

// NewTypedServer is NewServer with the codecs of requests and responses.
func NewTypedServer[Req, Resp any](node *transport.Node, name string, request codec.Codec[Req], response codec.Codec[Resp], options ...ServerOption) (*TypedServer[Req, Resp], error) {
	s, err := NewServer(node, name, options...)
	if err != nil {
		return nil, err
	}
	return &TypedServer[Req, Resp]{s, request, response}, nil
}

// Handle is [Server.Handle] with decoded requests and responses. A request that can't be
// decoded is answered with CodeBadRequest.
func (s *TypedServer[Req, Resp]) Handle(handler func(context.Context, Req) (Resp, error)) error {
	return s.handle(func(ctx context.Context, m *transport.Message) ([]byte, string, error) {
		req, err := codec.Decode(s.request, m.Body)
		if err != nil {
			return nil, "", &transport.RemoteError{Code: CodeBadRequest, Text: err.Error()}
		}
		resp, err := handler(ctx, req)
		if err != nil {
			return nil, "", err
		}
		body, err := s.response.Encode(resp)
		if err != nil {
			return nil, "", fmt.Errorf("encode the response: %w", err)
		}
		return body, s.response.ContentType(), nil
	})
}
