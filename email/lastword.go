package email

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"time"
)

// lastWord is how long the server's answer to a whole mail is waited for after the sending has been called off. It is on its
// way in nearly all cases, and without it the connection would be lost: as when the answer to a request comes faster than that of
// the mail server to its mail.
const lastWord = 200 * time.Millisecond

// patient runs f, which uses the connection, and closes the connection when ctx ends, as guard does; but when ctx
// is cancelled after f has set sent, only when f does not return within lastWord. It reports whether it has closed it.
func patient(ctx context.Context, conn net.Conn, sent *atomic.Bool, f func() error) (closed bool, err error) {
	done, ran := make(chan struct{}), make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ran)
		if sent.Load() && errors.Is(ctx.Err(), context.Canceled) && context.Cause(ctx) != errClosing {
			timer := time.NewTimer(lastWord)
			defer timer.Stop()
			select {
			case <-done:
				return
			case <-timer.C:
			}
		}
		closed = true
		conn.Close()
	})
	err = f()
	close(done)
	if !stop() {
		<-ran
	}
	if closed && err != nil {
		err = ended(ctx)
	}
	return closed, err
}
