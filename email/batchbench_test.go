package email_test

import (
	"errors"
	"path/filepath"
	"sync"
	"sync/atomic"
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
	c := open(b, email.Config{SMTP: server.SMTPURL(), IMAP: server.IMAPURL(), Username: account.Address, Password: account.Password, To: []string{account.Address}})
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
	b.ReportAllocs()
	b.ResetTimer()
	putBatches(b, server, func() { room <- struct{}{} })
	select {
	case <-done:
	case <-time.After(timeout):
		b.Fatalf("%d of %d messages came", n, b.N)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}

// putBatches puts b.N messages on topic /t into the mailbox of the first account. It calls each before every message.
func putBatches(b *testing.B, server *mailserver.Server, each func()) {
	b.Helper()
	account := server.Accounts()[0].Address
	envelope := wire.Envelope{From: account, To: []string{account}}
	gid := transport.NewGID()
	for sent := uint64(0); sent < uint64(b.N); {
		batch, err := wire.NewBatch(transport.NewID(gid, sent, "batches"), envelope, 60<<10)
		for ; err == nil && sent < uint64(b.N); sent++ {
			err = batch.Add(&transport.Message{Kind: transport.TopicMessage, Name: "/t", Body: []byte(payload), ID: transport.NewID(gid, sent+1, "batches"),
				Info: transport.Info{PublisherGID: gid, Sequence: sent + 1, SourceTime: time.Now()}})
			if err != nil {
				break
			}
			each()
		}
		if err == nil || errors.Is(err, wire.ErrBatchFull) {
			err = server.Deliver(account, batch.Mail())
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDurableBatches is BenchmarkDurable for messages that come in mails of several, and are there before: a durable
// name takes from the mailbox what it has room for.
func BenchmarkDurableBatches(b *testing.B) {
	bench := newBench(b, mailserver.Config{}, quiet)
	config := bench.config()
	config.State = filepath.Join(b.TempDir(), "state")
	first := open(b, config)
	_, stop := receive(b, first, durableOnT)
	stop()
	closeCarrier(b, first)
	putBatches(b, bench.server, func() {})
	for range b.N {
		<-bench.got
	}
	b.ResetTimer()
	c := open(b, config)
	defer closeCarrier(b, c)
	got, _ := receive(b, c, durableOnT)
	var working sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(b.N))
	for range 64 {
		working.Go(func() {
			for left.Add(-1) >= 0 {
				ack(b, <-got)
			}
		})
	}
	working.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}
