package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/service"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/codec"
	"github.com/postbus/postbus/waitset"
)

// waiter is peer with a wait set, and robot with what it takes to wake it.
type waiter struct {
	*demo
	set *waitset.WaitSet

	// Peer's, in the set.
	sub    *pubsub.Subscription
	client *service.Client
	server *service.Server
	guard  *waitset.GuardCondition

	// Robot's, at the other ends.
	pub     *pubsub.Publisher
	caller  *service.Client
	battery *service.Server

	called, asked call // robot's of adderName, and peer's of batteryName
}

// call is a call under way.
type call struct {
	sequence uint64
	started  time.Time
}

// occasion is one way in which the set becomes ready.
type occasion struct {
	entity waitset.Entity
	name   string // of the entity
	who    string
	what   string
	// cause makes the entity ready, and take uses that up; it says what there was.
	cause func(context.Context) error
	take  func(context.Context) (string, error)
}

// waitSet has peer wait for everything at once.
func (d *demo) waitSet(ctx context.Context) error {
	d.section("A wait set", "peer waits for a subscription, a client, a server and a guard condition at once.")
	d.printf("")
	w := &waiter{demo: d, guard: waitset.NewGuardCondition()}
	defer w.close()
	if err := w.setUp(); err != nil {
		return err
	}
	occasions := w.occasions()
	for _, o := range occasions {
		if err := w.wait(ctx, w.set.Wait, occasions, o); err != nil {
			return err
		}
	}
	d.event("wait set", "waits until all of them are ready")
	return w.wait(ctx, w.set.WaitAll, occasions, occasions...)
}

func (w *waiter) setUp() (err error) {
	if w.sub, err = pubsub.NewSubscription(w.peer, topicName, pubsub.KeepAll()); err != nil {
		return err
	}
	if w.client, err = service.NewClient(w.peer, batteryName); err != nil {
		return err
	}
	if w.server, err = service.NewServer(w.peer, adderName); err != nil {
		return err
	}
	if w.pub, err = pubsub.NewPublisher(w.robot, topicName); err != nil {
		return err
	}
	if w.caller, err = service.NewClient(w.robot, adderName); err != nil {
		return err
	}
	if w.battery, err = service.NewServer(w.robot, batteryName); err != nil {
		return err
	}
	err = w.battery.Handle(func(context.Context, *transport.Message) ([]byte, error) { return []byte("87 %"), nil })
	if err != nil {
		return err
	}
	w.set, err = waitset.New(w.sub, w.client, w.server, w.guard)
	return err
}

func (w *waiter) close() {
	if w.set != nil {
		w.set.Close()
	}
	if w.sub != nil {
		w.sub.Close()
	}
	for _, c := range []*service.Client{w.client, w.caller} {
		if c != nil {
			c.Close()
		}
	}
	for _, s := range []*service.Server{w.server, w.battery} {
		if s != nil {
			s.Close()
		}
	}
}

func (w *waiter) occasions() []occasion {
	return []occasion{
		{w.guard, "guard condition", "peer", "triggers the guard condition", w.trigger, w.takeTrigger},
		{w.sub, "subscription", "robot", "publishes on " + topicName, w.publish, w.takeMessage},
		{w.server, "server", "robot", "asks " + adderName + " for 5 + 6", w.askAdder, w.takeRequest},
		{w.client, "client", "peer", "asks " + batteryName + " of robot", w.askBattery, w.takeAnswer},
	}
}

// wait waits while the causes of some occasions come about, and takes what there is.
func (w *waiter) wait(ctx context.Context, wait func(context.Context, time.Duration) (waitset.Ready, error), all []occasion, expected ...occasion) error {
	ctx, cancel := w.step(ctx)
	defer cancel()
	for _, o := range expected {
		w.event(o.who, "%s", o.what)
	}
	var ready waitset.Ready
	err := both(ctx,
		func(ctx context.Context) error {
			for _, o := range expected {
				if err := o.cause(ctx); err != nil {
					return err
				}
			}
			return nil
		},
		func(ctx context.Context) (err error) {
			ready, err = wait(ctx, -1)
			return err
		})
	if err != nil {
		return err
	}
	w.showReady(ready, all)
	for _, o := range expected {
		if !ready.Has(o.entity) {
			return fmt.Errorf("the wait set woke up, but not for the %s", o.name)
		}
		text, err := o.take(ctx)
		if err != nil {
			return err
		}
		w.event("", "-> %s: %s", o.name, text)
	}
	return nil
}

// showReady prints which entities a wait has found ready.
func (w *waiter) showReady(ready waitset.Ready, all []occasion) {
	var boxes []string
	for _, o := range all {
		mark := " "
		if ready.Has(o.entity) {
			mark = "x"
		}
		boxes = append(boxes, fmt.Sprintf("[%s] %s", mark, o.name))
	}
	w.event("wait set", "wakes up  %s", strings.Join(boxes, "  "))
}

func (w *waiter) trigger(context.Context) error {
	w.guard.Trigger()
	return nil
}

func (w *waiter) takeTrigger(context.Context) (string, error) {
	return "was triggered, and is reset", nil
}

func (w *waiter) publish(ctx context.Context) error {
	return w.demo.publish(ctx, w.pub, "Wake up!")
}

func (w *waiter) takeMessage(ctx context.Context) (string, error) {
	for {
		m, err := w.sub.Next(ctx)
		if err != nil {
			return "", err
		}
		if m.Info.PublisherGID == w.pub.GID() {
			w.topic.addReceived(m.Info.ReceivedTime.Sub(m.Info.SourceTime))
			return fmt.Sprintf("the message %q", m.Body), nil
		}
	}
}

func (w *waiter) askAdder(ctx context.Context) (err error) {
	request, err := codec.JSON[addends]().Encode(addends{5, 6})
	if err != nil {
		return err
	}
	w.adder.addSent()
	w.called.started = time.Now()
	w.called.sequence, err = w.caller.Send(ctx, request)
	return err
}

// takeRequest answers robot's request, and has robot collect the answer.
func (w *waiter) takeRequest(ctx context.Context) (string, error) {
	request, err := w.server.Next(ctx)
	if err != nil {
		return "", err
	}
	numbers, err := codec.Decode(codec.JSON[addends](), request.Body)
	if err != nil {
		return "", errors.Join(err, request.RespondError(ctx, err))
	}
	result, err := add(numbers)
	if err != nil {
		return "", errors.Join(err, request.RespondError(ctx, err))
	}
	body, err := codec.JSON[sum]().Encode(result)
	if err != nil {
		return "", errors.Join(err, request.RespondError(ctx, err))
	}
	if err := request.Respond(ctx, body); err != nil {
		return "", err
	}
	answer, err := w.caller.Response(ctx, w.called.sequence)
	if err != nil {
		return "", err
	}
	w.adder.addReceived(answer.Info.ReceivedTime.Sub(w.called.started))
	return fmt.Sprintf("the request %s, answered with %s", request.Body, answer.Body), nil
}

func (w *waiter) askBattery(ctx context.Context) (err error) {
	w.demo.battery.addSent()
	w.asked.started = time.Now()
	w.asked.sequence, err = w.client.Send(ctx, nil)
	return err
}

func (w *waiter) takeAnswer(ctx context.Context) (string, error) {
	answer, err := w.client.Response(ctx, w.asked.sequence)
	if err != nil {
		return "", err
	}
	w.demo.battery.addReceived(answer.Info.ReceivedTime.Sub(w.asked.started))
	return fmt.Sprintf("the answer %q", answer.Body), nil
}
