package worker

import (
	"context"
	"errors"

	"github.com/postbus/postbus/internal/backoff"
	"github.com/postbus/postbus/internal/torture/history"
	"github.com/postbus/postbus/service"
	"github.com/postbus/postbus/transport"
)

// call makes Count calls, one after the other, and stays until ctx ends.
func (w *worker) call(ctx context.Context) error {
	client, err := service.NewClient(w.node, w.Topic)
	if err != nil {
		return err
	}
	defer client.Close()
	gid := client.GID().String()
	for n := uint64(1); n <= w.Count; n++ {
		request := w.random.body(gid, n, w.MaxBody)
		event := history.Event{Kind: history.Call, Publisher: gid, Number: n, Hash: history.Hash(request), Topic: w.Topic}
		if err := w.log.Add(event); err != nil {
			return err
		}
		event.Kind, event.Hash = history.Outcome, ""
		event.Text = w.outcome(ctx, client, request)
		if err := w.log.Add(event); err != nil {
			return err
		}
		if !backoff.Sleep(ctx, w.Every) {
			return nil
		}
	}
	<-ctx.Done()
	return nil
}

// outcome makes a call.
func (w *worker) outcome(ctx context.Context, client *service.Client, request []byte) string {
	ctx, cancel := context.WithTimeout(ctx, w.Timeout)
	defer cancel()
	response, err := client.Call(ctx, request)
	switch {
	case err == nil && string(response.Body) == string(answer(request)):
		return history.Answered
	case err == nil:
		return history.Wrong
	case errors.Is(err, transport.ErrTimeout):
		return history.Timeout
	}
	if _, ok := errors.AsType[*transport.RemoteError](err); ok {
		return history.Refused
	}
	return history.Unsent + ": " + err.Error()
}

// serve answers requests until ctx ends.
func (w *worker) serve(ctx context.Context) error {
	server, err := service.NewServer(w.node, w.Topic, w.serverOptions()...)
	if err != nil {
		return err
	}
	defer server.Close()
	open := history.Event{Kind: history.Open, Receiver: w.Receiver, Topic: w.Topic, Mode: w.Mode, Lease: int64(w.Lease)}
	if err := w.log.Add(open); err != nil {
		return err
	}
	for {
		request, err := server.Next(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if err := w.respond(ctx, request); err != nil {
			return err
		}
	}
}

func (w *worker) serverOptions() []service.ServerOption {
	switch w.Mode {
	case history.Durable:
		return []service.ServerOption{service.Durable(w.Receiver)}
	case history.Group:
		return []service.ServerOption{service.Group(w.Receiver), service.Lease(w.Lease)}
	}
	return nil
}

// respond answers a request, and says so before and after.
func (w *worker) respond(ctx context.Context, request *service.Request) error {
	gid, n, _ := Parse(request.Body) // what can't be read will be found out
	event := history.Event{Receiver: w.Receiver, Publisher: gid, Number: n}
	run := event
	run.Kind, run.Hash = history.Run, history.Hash(request.Body)
	if err := w.log.Add(run); err != nil {
		return err
	}
	if !backoff.Sleep(ctx, w.random.upTo(w.Work)) {
		return nil
	}
	return w.settle(event, history.Answer, history.Ran, history.Unran, func() error {
		sending, cancel := context.WithTimeout(ctx, w.Timeout)
		defer cancel()
		return request.Respond(sending, answer(request.Body))
	})
}
