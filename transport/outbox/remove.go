package outbox

import (
	"time"

	"github.com/postbus/postbus/internal/backoff"
)

const (
	// removeDelay is how long what has been sent may stay in the file, so that many are removed
	// at once. What a crash leaves there is sent again, with the same ID.
	removeDelay = 20 * time.Millisecond
	// removeAtOnce is how many need not wait any longer.
	removeAtOnce = 256
)

// remove deletes what is not to be sent any more from the file, until there is no sender.
func (o *Outbox) remove() {
	defer close(o.remover)
	for failed, last := 0, false; ; {
		n := o.removeGone()
		if n < 0 {
			failed++
			if failed == 1 {
				o.log.Warn("sent messages could not be removed from the outbox; they would be sent again after a crash", "file", o.options.File)
			}
		} else if n > 0 {
			failed = 0
		}
		if last {
			return
		}
		select {
		case <-o.removal:
		case <-o.sender:
			last = true
			continue
		}
		if !o.gather(failed) {
			last = true
		}
	}
}

// gather waits for more to remove. It returns false when there is no sender any more.
func (o *Outbox) gather(failed int) bool {
	timer := time.NewTimer(max(removeDelay, backoff.Delay(failed)))
	defer timer.Stop()
	for {
		o.mu.Lock()
		n := len(o.gone) + len(o.graves)
		o.mu.Unlock()
		if n >= removeAtOnce && failed == 0 {
			return true
		}
		select {
		case <-timer.C:
			return true
		case <-o.removal:
		case <-o.sender:
			return false
		}
	}
}

// removeGone deletes what has gone, and returns how much that was, or -1 if it could not be done.
func (o *Outbox) removeGone() int {
	o.mu.Lock()
	gone, graves := o.gone, o.graves
	o.gone, o.graves = nil, nil
	o.mu.Unlock()
	if len(gone)+len(graves) == 0 {
		return 0
	}
	if err := o.store.remove(gone, graves); err != nil {
		o.mu.Lock()
		o.gone, o.graves = append(gone, o.gone...), append(graves, o.graves...)
		o.mu.Unlock()
		poke(o.removal)
		return -1
	}
	return len(gone) + len(graves)
}
