//go:build integration

package email_test

import (
	"crypto/tls"
	"crypto/x509"
	"slices"
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"github.com/postbus/postbus/email/wire"
	"github.com/postbus/postbus/transport"
)

// BenchmarkRealFullMailbox compares a mailbox of Dovecot with the same one when 20,000 more
// mails are in it.
func BenchmarkRealFullMailbox(b *testing.B) {
	const mails = 20_000
	config, _ := real(b)
	config.To = []string{config.Username}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(config.CA)
	client, err := imapclient.DialTLS(strings.TrimPrefix(config.IMAP, "imaps://"), &imapclient.Options{TLSConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}})
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	if err := client.Login(config.Username, config.Password).Wait(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		before := measure(b, config, 5)
		var uids imap.UIDSet
		fill(100, func(m *transport.Message) {
			raw, err := wire.Encode(m, wire.Envelope{From: config.Username, To: config.To})
			if err != nil {
				b.Fatal(err)
			}
			c := client.Append("INBOX", int64(len(raw)), nil)
			_, _ = c.Write(raw)
			_ = c.Close()
			data, err := c.Wait()
			if err != nil {
				b.Fatal(err)
			}
			uids.AddNum(data.UID)
		})
		if _, err := client.Select("INBOX", nil).Wait(); err != nil {
			b.Fatal(err)
		}
		some := slices.Clone(uids)
		for range mails/100 - 1 { // one by one would take long
			data, err := client.Copy(some, "INBOX").Wait()
			if err != nil {
				b.Fatal(err)
			}
			uids.AddSet(data.DestUIDs)
		}
		after := measure(b, config, 5)
		b.Logf("before:           %v", before)
		b.Logf("with %d more: %v", mails, after)
		if err := client.Store(uids, &imap.StoreFlags{Op: imap.StoreFlagsAdd, Silent: true, Flags: []imap.Flag{imap.FlagDeleted}}, nil).Close(); err != nil {
			b.Fatal(err)
		}
		if err := client.UIDExpunge(uids).Close(); err != nil {
			b.Fatal(err)
		}
	}
}
