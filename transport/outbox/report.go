package outbox

import (
	"sync"
	"time"

	"github.com/postbus/postbus/transport"
)

// receiver is an interest in what comes back to an entity: from the carrier, as answers and
// bounces, and from the outbox itself, when a message is refused.
type receiver struct {
	mu      sync.Mutex // held while deliver is called, so that calls come one at a time
	deliver func(transport.Delivery)
}

func (r *receiver) take(d transport.Delivery) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deliver(d)
}

// Receive is that of the carrier. An entity that is told of its bounces (see
// transport.Undeliverable) is told of its dead letters in the same way: so a call fails when its request
// is refused, though Send had returned nil long before.
func (o *Outbox) Receive(interest transport.Interest, deliver func(transport.Delivery)) (stop func(), err error) {
	if interest.Kind != transport.Response && interest.Kind != transport.Undeliverable {
		return o.carrier.Receive(interest, deliver)
	}
	r := &receiver{deliver: deliver}
	end, err := o.carrier.Receive(interest, r.take)
	if err != nil {
		return nil, err
	}
	remove := o.senders.Add(interest, r.take)
	return func() { remove(); end() }, nil
}

// tell reports a dead letter to the entity that sent it, if it wants to hear of it.
func (o *Outbox) tell(m *transport.Message, d Death) {
	if m == nil {
		return // it can't be read
	}
	o.senders.Dispatch(transport.Delivery{Message: &transport.Message{
		Kind:      transport.Undeliverable,
		Name:      m.Name,
		InReplyTo: m.ID,
		Info:      transport.Info{ReceivedTime: time.Now()},
		Error:     &transport.RemoteError{Code: d.Code, Text: shorten(d.Reason)},
	}})
}
