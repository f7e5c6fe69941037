package email_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/internal/bench/raw"
	"github.com/postbus/postbus/transport"
)

// floorMail is a mail of about the size of a message's.
var floorMail = []byte("From: <a@test>\r\nTo: <b@test>\r\nSubject: /t\r\n\r\n" + strings.Repeat(strings.Repeat("x", 68)+"\r\n", 10))

// discarding is a mail server that takes mails and forgets them.
type discarding struct{ io.Writer }

func (d discarding) NewSession(*smtp.Conn) (smtp.Session, error)        { return d, nil }
func (d discarding) Mail(string, *smtp.MailOptions) error               { return nil }
func (d discarding) Rcpt(string, *smtp.RcptOptions) error               { return nil }
func (d discarding) LMTPData(r io.Reader, _ smtp.StatusCollector) error { return d.Data(r) }
func (d discarding) Reset()                                             {}
func (d discarding) Logout() error                                      { return nil }
func (d discarding) Data(r io.Reader) error {
	_, err := io.Copy(d, r)
	return err
}

// BenchmarkListen is the time from publishing over LMTP until a node that listens has the message. The floor, measured in
// turns with it, is the transaction alone: a raw client that has a server discard a mail.
func BenchmarkListen(b *testing.B) {
	for _, network := range []string{"unix", "tcp"} {
		b.Run(network, func(b *testing.B) {
			addresses := []string{filepath.Join(b.TempDir(), "floor"), filepath.Join(b.TempDir(), "s")}
			scheme := "lmtp+unix://"
			if network == "tcp" {
				addresses, scheme = []string{"127.0.0.1:0", "127.0.0.1:0"}, "lmtp+insecure://"
			}
			var sockets []net.Listener
			for i, address := range addresses {
				socket, err := net.Listen(network, address)
				if err != nil {
					b.Fatal(err)
				}
				sockets, addresses[i] = append(sockets, socket), socket.Addr().String()
			}
			s := smtp.NewServer(discarding{io.Discard})
			s.LMTP = true
			served := make(chan struct{})
			go func() { defer close(served); _ = s.Serve(sockets[0]) }()
			defer func() { s.Close(); <-served }()
			floor, err := raw.OpenSubmitter(b.Context(), raw.Account{SMTP: scheme + addresses[0], Address: "a@test"})
			if err != nil {
				b.Fatal(err)
			}
			defer floor.Close()
			config := email.Config{SMTP: scheme + addresses[1], IMAP: scheme + addresses[1], Username: "a@test", Password: "secret", To: []string{"a@test"}}
			c, err := email.Listen(b.Context(), sockets[1], config, email.Options{Logger: quiet})
			if err != nil {
				b.Fatal(err)
			}
			defer closeCarrier(b, c)
			measureWay(b, c, c, func() error { return floor.Submit(floorMail) })
		})
	}
}

// BenchmarkAppend is the time from appending a message until another node that watches the folder has it. The floor is a raw
// client that appends and looks without pause.
func BenchmarkAppend(b *testing.B) {
	server, err := mailserver.Start(mailserver.Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer server.Close()
	account := server.Accounts()[0]
	benchmarkAppend(b, email.Config{SMTP: server.IMAPURL(), IMAP: server.IMAPURL(), Username: account.Address, Password: account.Password})
}

func benchmarkAppend(b *testing.B, config email.Config) {
	account := raw.Account{SMTP: config.SMTP, IMAP: config.IMAP, Username: config.Username, Password: config.Password, Address: config.Username, CA: config.CA}
	in, err := raw.OpenFetcher(b.Context(), account)
	if err != nil {
		b.Fatal(err)
	}
	defer in.Close()
	out, err := raw.OpenSubmitter(b.Context(), account)
	if err != nil {
		b.Fatal(err)
	}
	defer out.Close()
	from, to := open(b, config), open(b, config)
	defer closeCarrier(b, from)
	defer closeCarrier(b, to)
	number := 0
	measureWay(b, from, to, func() error {
		number++
		mark := []byte(fmt.Sprintf("Message-ID: <%d@floor>\r\n", number))
		if err := out.Start(append(mark[:len(mark):len(mark)], floorMail...)); err != nil {
			return err
		}
		for found := false; !found; {
			if err := in.Fetch(b.Context(), func(mail []byte) error {
				found = found || bytes.HasPrefix(mail, mark)
				return nil
			}); err != nil {
				return err
			}
		}
		return out.Finish()
	})
}

// measureWay sends messages from one node to another, in turns with the floor, and compares the medians.
func measureWay(b *testing.B, from, to *email.Carrier, floor func() error) {
	there := make(chan time.Time, 1)
	if _, err := to.Receive(transport.Interest{Kind: transport.TopicMessage, Name: "/t"}, func(transport.Delivery) { there <- time.Now() }); err != nil {
		b.Fatal(err)
	}
	messages := &bench{TB: b, gid: transport.NewGID()}
	send := func() time.Duration {
		m := messages.message(payload)
		start := time.Now()
		if err := from.Send(b.Context(), m); err != nil {
			b.Fatal(err)
		}
		return (<-there).Sub(start)
	}
	send() // the first waits for whether there are others before it
	var ours, floors []time.Duration
	for b.Loop() {
		start := time.Now()
		if err := floor(); err != nil {
			b.Fatal(err)
		}
		floors = append(floors, time.Since(start))
		ours = append(ours, send())
	}
	reportPercentiles(b, ours)
	slices.Sort(floors)
	median := floors[len(floors)/2]
	b.ReportMetric(float64(median.Nanoseconds())/1000, "floor-µs")
	b.ReportMetric(float64(ours[len(ours)/2])/float64(median), "p50/floor")
}

// BenchmarkListenThroughput is how many messages a node that listens gets over LMTP, as fast as they are taken.
func BenchmarkListenThroughput(b *testing.B) {
	for name, batch := range map[string]bool{"single": false, "batch": true} {
		b.Run(name, func(b *testing.B) {
			c := listeningNode(b, func(c *email.Config) { c.Batch.On = batch })
			defer closeCarrier(b, c)
			all := make(chan struct{})
			left := b.N
			if _, err := c.Receive(transport.Interest{Kind: transport.TopicMessage, Name: "/t"}, func(transport.Delivery) {
				if left--; left == 0 {
					close(all)
				}
			}); err != nil {
				b.Fatal(err)
			}
			messages := &bench{TB: b, gid: transport.NewGID()}
			b.ResetTimer()
			const some = 1000
			for sent := 0; sent < b.N; {
				var msgs []*transport.Message
				for range min(some, b.N-sent) {
					msgs = append(msgs, messages.message(payload))
				}
				if err := c.Send(b.Context(), msgs...); err != nil {
					b.Fatal(err)
				}
				sent += len(msgs)
			}
			<-all
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}
