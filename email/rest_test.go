package email

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/postbus/postbus/transport"
)

// TestIdleHourOfPublisher: a node that nobody sends anything to, because it only publishes, costs next to nothing.
func TestIdleHourOfPublisher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t)
		r := &receiver{address: "b@test", logger: quietLog, connect: s.dial}
		if err := r.open(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		before := s.count("") - s.count("DONE")
		time.Sleep(time.Hour)
		if n := s.count("") - s.count("DONE") - before; n > 60 {
			t.Errorf("%d commands in an hour, want one a minute", n)
		}
		if n := len(s.conns); n != 1 {
			t.Errorf("%d connections", n)
		}
		if err := r.close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestWakeUpCommands: what a prompt server announces costs one FETCH, without a look that finds nothing.
func TestWakeUpCommands(t *testing.T) {
	withScript(t, nil, func(t *scriptTest) {
		n := 0
		round := func(messages int) {
			time.Sleep(5500 * time.Microsecond) // between two looks
			t.script.addMessages(n+1, n+messages)
			t.want(n+1, n+messages)
			n += messages
		}
		for range 2 * mostTrusted {
			round(1)
		}
		fetches := t.script.count("UID FETCH")
		for range 10 {
			round(1)
		}
		if got := t.script.count("UID FETCH") - fetches; got != 10 {
			t.Errorf("%d fetches for 10 messages one after the other", got)
		}
		fetches = t.script.count("UID FETCH")
		t.script.silent.Store(true)
		t.script.addMessages(n+1, n+499)
		n += 499
		t.script.silent.Store(false)
		t.script.addMessages(n+1, n+1)
		t.want(n-498, n+1)
		if got := t.script.count("UID FETCH") - fetches; got != 1 {
			t.Errorf("%d fetches for 500 messages at once", got)
		}
	})
}

// TestLostNotification: a server that has always been prompt, and loses a notification, delays a message
// by half of the time that it has been quiet at most.
func TestLostNotification(t *testing.T) {
	withScript(t, nil, func(t *scriptTest) {
		const rounds = int(mostTrusted)
		for n := 1; n <= rounds; n++ {
			time.Sleep(50500 * time.Microsecond) // between two looks
			t.script.addMessages(n, n)
			t.want(n, n)
		}
		t.script.silent.Store(true)
		const quiet = 300 * time.Millisecond
		time.Sleep(quiet)
		start := time.Now()
		t.script.addMessages(rounds+1, rounds+1)
		t.want(rounds+1, rounds+1)
		if late := time.Since(start); late > quiet {
			t.Errorf("found %v late", late)
		}
	})
}

// TestAnswerAwaited: the answer to a call that takes long is found by a look, also where IDLE is not to be
// relied on, and there are no more looks than that needs.
func TestAnswerAwaited(t *testing.T) {
	withScript(t, nil, func(t *scriptTest) {
		t.script.silent.Store(true)
		const late = 4
		for n := 1; n <= late; n++ { // so that IDLE counts as late
			time.Sleep(10 * time.Millisecond)
			t.script.addMessages(n, n)
			t.want(n, n)
		}
		request := &transport.Message{ID: transport.NewID(transport.GID{1}, 1, "test"), Deadline: time.Now().Add(time.Minute)}
		t.receiver.awaited.add(request)
		t.receiver.expect()
		time.Sleep(20 * time.Second)
		fetches := t.script.count("UID FETCH")
		time.Sleep(10 * time.Second)
		if n := t.script.count("UID FETCH") - fetches; n > int(10*time.Second/awaitedWait) {
			t.Errorf("%d looks in ten seconds", n)
		}
		start := time.Now()
		t.script.addMessages(late+1, late+1)
		t.want(late+1, late+1)
		if took := time.Since(start); took > awaitedWait {
			t.Errorf("found %v late", took)
		}
		t.receiver.awaited.settle(request.ID)
		time.Sleep(20 * time.Second)
		fetches = t.script.count("UID FETCH")
		time.Sleep(10 * time.Second)
		if n := t.script.count("UID FETCH") - fetches; n > 1 {
			t.Errorf("%d looks in ten seconds after the answer", n)
		}
	})
}
