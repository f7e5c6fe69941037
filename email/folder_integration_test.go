//go:build integration

package email_test

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2"
)

func realMailbox(t testing.TB) mailbox {
	config, _ := real(t)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(config.CA)
	dial := func() (net.Conn, error) {
		return tls.Dial("tcp", strings.TrimPrefix(config.IMAP, "imaps://"), &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12})
	}
	return mailbox{t, dial, config.Username, config.Password}
}

func TestRealAppendOrder(t *testing.T) { testAppendOrder(realMailbox(t)) }

// TestRealMoveRace: by RFC 6851 one of several should win; Dovecot 2.3 with Maildir lets
// each have a copy.
func TestRealMoveRace(t *testing.T) {
	winners, copies := testMoveRace(realMailbox(t))
	t.Logf("Dovecot: at most %d winners of a MOVE and %d copies", winners, copies)
}

// TestRealStoreRace: several set a keyword of their own with UNCHANGEDSINCE. By RFC 7162 one
// of them wins; Dovecot 2.3 lets two.
func TestRealStoreRace(t *testing.T) {
	const clients, rounds = 4, 40
	m := realMailbox(t)
	folder := m.folder("postbus-test-store")
	watcher := m.client(folder)
	most := 0
	for range rounds {
		uid := m.put(watcher, folder, "x")
		fetch := &imap.FetchOptions{UID: true, Flags: true, ModSeq: true}
		found, err := watcher.Fetch(imap.UIDSetNum(uid), fetch).Collect()
		if err != nil || len(found) != 1 {
			t.Fatal(found, err)
		}
		since := found[0].ModSeq
		number := 0
		m.race(clients, func() func() {
			c := m.client(folder)
			number++
			keyword := imap.Flag("claim" + strconv.Itoa(number))
			return func() {
				_ = c.Store(imap.UIDSetNum(uid), &imap.StoreFlags{Op: imap.StoreFlagsAdd, Flags: []imap.Flag{keyword}},
					&imap.StoreOptions{UnchangedSince: since}).Close()
				_ = c.Logout().Wait()
			}
		})
		_ = watcher.Noop().Wait()
		if found, err = watcher.Fetch(imap.UIDSetNum(uid), fetch).Collect(); err != nil || len(found) != 1 {
			t.Fatal(found, err)
		}
		keywords := 0
		for _, f := range found[0].Flags {
			if strings.HasPrefix(string(f), "claim") {
				keywords++
			}
		}
		most = max(most, keywords)
	}
	t.Logf("Dovecot: at most %d of %d win a STORE with UNCHANGEDSINCE", most, clients)
}
