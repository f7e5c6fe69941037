package outbox

import (
	"context"
	"errors"
)

// Close accepts nothing more, and sends what waits as long as that goes well: not while the
// next hop can't be reached, and until ctx ends. What is left stays in the file for the next time. Then it
// closes the carrier and the file. A second Close does nothing and returns nil.
func (o *Outbox) Close(ctx context.Context) error {
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		return nil
	}
	o.closed = true
	o.mu.Unlock()
	poke(o.wake)

	stop := context.AfterFunc(ctx, o.end)
	<-o.sender
	stop()
	o.end()
	<-o.remover
	err := errors.Join(o.carrier.Close(ctx), o.store.close())
	o.mu.Lock()
	defer o.mu.Unlock()
	if n := o.index.count; n > 0 {
		o.log.Info("messages are left in the outbox; they are sent when it is opened again", "count", n, "file", o.options.File)
	}
	return err
}
