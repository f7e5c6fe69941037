package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/postbus/postbus/service"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/codec"
)

// addends is the request of adderName, and sum its response.
type (
	addends struct {
		A int64 `json:"a"`
		B int64 `json:"b"`
	}
	sum struct {
		Sum int64 `json:"sum"`
	}
)

// codeOverflow is the code of the error that the adder answers with.
const codeOverflow = 422

// add is the service.
func add(request addends) (sum, error) {
	total := request.A + request.B
	if (total > request.A) != (request.B > 0) {
		return sum{}, &transport.RemoteError{Code: codeOverflow, Text: "the sum does not fit into 64 bits"}
	}
	return sum{total}, nil
}

// addTwoInts has robot call a service of peer.
func (d *demo) addTwoInts(ctx context.Context) error {
	d.section("A service", fmt.Sprintf("robot calls %s of peer. The time at the end is there and back.", adderName))
	d.printf("")
	server, err := service.NewTypedServer(d.peer, adderName, codec.JSON[addends](), codec.JSON[sum]())
	if err != nil {
		return err
	}
	defer server.Close()
	err = server.Handle(func(_ context.Context, request addends) (sum, error) {
		response, err := add(request)
		if err != nil {
			d.event("server", "answers   with an error")
		} else {
			d.event("server", "answers   %d", response.Sum)
		}
		return response, err
	})
	if err != nil {
		return err
	}
	client, err := service.NewTypedClient(d.robot, adderName, codec.JSON[addends](), codec.JSON[sum]())
	if err != nil {
		return err
	}
	defer client.Close()
	d.wire.watch(client.GID())
	for _, request := range []addends{{2, 3}, {40, 2}, {-7, 7}, {math.MaxInt64, 1}} {
		if err := d.call(ctx, client, request); err != nil {
			return err
		}
	}
	return nil
}

// call makes one call and checks that its outcome is that of add.
func (d *demo) call(ctx context.Context, client *service.TypedClient[addends, sum], request addends) error {
	ctx, cancel := d.step(ctx)
	defer cancel()
	want, wantErr := add(request)
	d.event("client", "asks      %d + %d", request.A, request.B)
	d.adder.addSent()
	started := time.Now()
	got, err := client.Call(ctx, request)
	took := time.Since(started)
	var remote *transport.RemoteError
	switch {
	case errors.As(err, &remote) && wantErr != nil:
		d.adder.addReceived(took)
		d.event("client", "gets      %-47s %10s", fmt.Sprintf("error %d: %s", remote.Code, remote.Text), milliseconds(took))
		return nil
	case err != nil:
		return err
	case got != want || wantErr != nil:
		return fmt.Errorf("call %s: %d + %d was answered with %d", adderName, request.A, request.B, got.Sum)
	}
	d.adder.addReceived(took)
	d.event("client", "gets      %-47d %10s", got.Sum, milliseconds(took))
	return nil
}
