package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// errOtherAnswer is what a call fails with that gets an answer to something else.
var errOtherAnswer = errors.New("the answer is not the one to the request")

// Calls makes the calls of a load: each of the load's publishers, which are clients here, has one under way
// at a time. A load with a rate spreads them over time.
func Calls(ctx context.Context, open func(context.Context, Load) (Caller, error), load Load) (*Sample, error) {
	if err := load.Check(); err != nil {
		return nil, err
	}
	caller, err := open(ctx, load)
	if err != nil {
		return nil, err
	}
	sample, err := calls(ctx, caller, load)
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if closeErr := caller.Close(closing); err == nil {
		err = closeErr
	}
	return sample, err
}

func calls(ctx context.Context, caller Caller, load Load) (*Sample, error) {
	body := payload(load.Payload)
	for range load.WarmUp {
		if err := call(ctx, caller, 0, body); err != nil {
			return nil, fmt.Errorf("warm up: %w", err)
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	points := make([][]Point, load.Publishers)
	counts := shares(load.Count, load.Publishers)
	for i, n := range counts {
		points[i] = make([]Point, 0, n)
	}
	var late atomic.Int64
	before := readUsage()
	start := time.Now()
	var calling sync.WaitGroup
	for c, count := range counts {
		calling.Go(func() {
			for i := range count {
				if load.Rate > 0 && !load.await(ctx, start, c, i, &late) {
					return
				}
				sent := time.Now()
				if err := call(ctx, caller, c, body); err != nil {
					cancel(fmt.Errorf("call %d of client %d: %w", i+1, c, err))
					return
				}
				points[c] = append(points[c], Point{At: sent.Sub(start), Took: time.Since(sent)})
			}
		})
	}
	calling.Wait()
	sample := &Sample{Elapsed: time.Since(start), Used: readUsage().since(before), Late: int(late.Load())}
	if cause := context.Cause(ctx); cause != nil {
		return nil, cause
	}
	for _, p := range points {
		sample.Points = append(sample.Points, p...)
	}
	sample.Received = len(sample.Points)
	return sample, nil
}

// call makes one call and checks its answer.
func call(ctx context.Context, caller Caller, client int, body []byte) error {
	answer, err := caller.Call(ctx, client, body)
	if err != nil {
		return err
	}
	if !bytes.Equal(answer, body) {
		return errOtherAnswer
	}
	return nil
}
