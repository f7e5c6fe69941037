package email_test

import (
	"errors"
	"testing"
	"time"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/email/wire"
	"github.com/postbus/postbus/transport"
)

// BenchmarkReceiveBatches is what a message of 128 bytes costs that comes in mails of several, which are
// put into the mailbox of the embedded server as soon as there is room: to write and to receive it, all but the way
// to the server.
func BenchmarkReceiveBatches(b *testing.B) {
	server, err := mailserver.Start(mailserver.Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer server.Close()
	account := server.Accounts()[0]
	envelope := wire.Envelope{From: account.Address, To: []string{account.Address}}
	c := open(b, email.Config{SMTP: server.SMTPURL(), IMAP: server.IMAPURL(), Username: account.Address, Password: account.Password, To: envelope.To})
	defer closeCarrier(b, c)
	const window = 20_000
	room := make(chan struct{}, window)
	done := make(chan struct{})
	n := 0
	_, err = c.Receive(transport.Interest{Kind: transport.TopicMessage, Name: "/t"}, func(transport.Delivery) {
		<-room
		if n++; n == b.N {
			close(done)
		}
	})
	if err != nil {
		b.Fatal(err)
	}
	gid := transport.NewGID()
	b.ReportAllocs()
	b.ResetTimer()
	for sent := uint64(0); sent < uint64(b.N); {
		batch, err := wire.NewBatch(transport.NewID(gid, sent, "batches"), envelope, 60<<10)
		for ; err == nil && sent < uint64(b.N); sent++ {
			err = batch.Add(&transport.Message{Kind: transport.TopicMessage, Name: "/t", Body: []byte(payload), ID: transport.NewID(gid, sent+1, "batches"),
				Info: transport.Info{PublisherGID: gid, Sequence: sent + 1, SourceTime: time.Now()}})
			if err != nil {
				break
			}
			room <- struct{}{}
		}
		if err == nil || errors.Is(err, wire.ErrBatchFull) {
			err = server.Deliver(account.Address, batch.Mail())
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	select {
	case <-done:
	case <-time.After(timeout):
		b.Fatalf("%d of %d messages came", n, b.N)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}
