//go:build integration

package email_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/smtp"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/service"
	"github.com/postbus/postbus/transport"
)

// realMail hands in a mail, written with LF, as another mail server would.
func realMail(t testing.TB, from, to, text string) {
	t.Helper()
	c, err := smtp.Dial(strings.TrimPrefix(variable(t, "POSTBUS_TEST_SMTP_INSECURE"), "smtp+insecure://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := errors.Join(c.Mail(from), c.Rcpt(to)); err != nil {
		t.Fatal(err)
	}
	w, err := c.Data()
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Write([]byte(strings.ReplaceAll(text, "\n", "\r\n")))
	if err := errors.Join(err, w.Close(), c.Quit()); err != nil {
		t.Fatal(err)
	}
}

// realCall begins a call of a service that nobody else calls.
func realCall(t testing.TB, config email.Config, name string) <-chan outcome {
	t.Helper()
	node, err := transport.NewNode(open(t, config), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := node.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	client, err := service.NewClient(node, name)
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan outcome, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		answer, err := client.Call(ctx, []byte("May I?"))
		result <- outcome{answer, err}
	}()
	return result
}

// TestRealBounce: the server's own report ends a call.
func TestRealBounce(t *testing.T) {
	config, _ := real(t)
	config.To = []string{variable(t, "POSTBUS_TEST_BOUNCE")}
	got := <-realCall(t, config, "/approve")
	sendErr, ok := errors.AsType[*transport.SendError](got.err)
	if !ok || sendErr.Outcome != transport.Permanent || !errors.Is(got.err, transport.ErrUndeliverable) || !strings.Contains(got.err.Error(), config.To[0]) {
		t.Fatalf("error %v", got.err)
	}
	t.Log(got.err)
}

// TestRealPersonAnswers: what a person writes comes through the servers as it is meant.
func TestRealPersonAnswers(t *testing.T) {
	config, peer := real(t)
	config.To = []string{peer.Username}
	for name, test := range map[string]struct{ text, want string }{
		"plain": {"\nJa, gern.\n\nAm 21.11. schrieb robot:\n> May I?\n", "Ja, gern."},
		"8-bit": {"MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8; format=flowed\nContent-Transfer-Encoding: 8bit\n\nSchöne \nGrüße\n-- \nA. Person\n", "Schöne Grüße"},
		"Latin-1 alternative": {"MIME-Version: 1.0\nContent-Type: multipart/alternative; boundary=b\n\n--b\nContent-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: quoted-printable\n\nSch=F6n\n" +
			"--b\nContent-Type: text/html; charset=iso-8859-1\nContent-Transfer-Encoding: quoted-printable\n\n<p>Sch=F6n\n--b--\n", "Schön"},
	} {
		t.Run(name, func(t *testing.T) {
			desk := open(t, peer)
			defer desk.Close(context.Background())
			service := "/approve/" + transport.NewGID().String()
			requests := make(chan *transport.Message, 1)
			if _, err := desk.Receive(transport.Interest{Kind: transport.Request, Name: service}, func(d transport.Delivery) { requests <- d.Message }); err != nil {
				t.Fatal(err)
			}
			result := realCall(t, config, service)
			request := <-requests
			head := fmt.Sprintf("From: A Person <%s>\nTo: %s\nMessage-ID: <%s@person.test>\nDate: Sat, 21 Nov 2026 10:00:00 +0100\n", peer.Username, config.Username, transport.NewGID())
			away := "Subject: Away\nAuto-Submitted: auto-replied\nIn-Reply-To: <" + request.ID.String() + ">\n\nI am away.\n"
			realMail(t, peer.Username, config.Username, strings.Replace(head, "<", "<a", 2)+away)
			realMail(t, peer.Username, config.Username, head+"Subject: AW: "+service+"\nReferences: <"+request.ID.String()+">\n"+test.text)
			if got := <-result; got.err != nil || string(got.answer.Body) != test.want || !got.answer.Person {
				t.Errorf("answer %+v, %v", got.answer, got.err)
			}
		})
	}
}

// TestRealPayloads: bodies come back byte for byte that servers are likely to change.
func TestRealPayloads(t *testing.T) {
	high := make([]byte, 0x80)
	for i := range high {
		high[i] = byte(0x80 + i)
	}
	random := rand.NewChaCha8([32]byte{})
	large := make([]byte, 20_000_000)
	random.Read(large)
	bodies := [][]byte{
		nil, []byte("\n"), []byte("\r\n"), []byte("\r"), []byte("\n\n\n"), []byte("a\rb"), []byte("a\r\nb\nc\rd\r\n"), []byte("\r\r\n\n\r"),
		[]byte("From here on\nFrom there\n>From\n"), []byte("Subject: /other\nBcc: x@y.z\n\nbody"), []byte(".\n..\n.\r\n"), []byte("--\n-- \n--b--\n"),
		[]byte(" \t \n \n"), []byte("a\x00b"), []byte("\xef\xbb\xbfBOM"), []byte("=?utf-8?q?x?="), []byte("=20=\n"), []byte("grüß dich\n"), []byte("\xff\xfe\xc3"),
		high, []byte(strings.Repeat("x", 64<<10)), []byte(strings.Repeat("ä", 32<<10)), []byte(strings.Repeat("\x80", 64<<10)), []byte(strings.Repeat("y", 997) + "\n" + strings.Repeat("z", 999)),
		[]byte(strings.Repeat("line\n", 100_000)), large,
	}
	config, _ := real(t)
	config.To, config.MaxBody = []string{config.Username}, 32<<20
	b := realNode(t, config)
	for _, body := range bodies {
		if err := b.carrier.Send(t.Context(), b.message(string(body))); err != nil {
			t.Fatal(err)
		}
	}
	seen := make(map[uint64]bool)
	for range bodies { // Postfix may change the order
		select {
		case m := <-b.got:
			if n := m.Info.Sequence; seen[n] || !bytes.Equal(m.Body, bodies[n-1]) {
				t.Errorf("body %d came (again: %v) with %d bytes, %.50q; want %d bytes, %.50q", n, seen[n], len(m.Body), m.Body, len(bodies[n-1]), bodies[n-1])
			}
			seen[m.Info.Sequence] = true
		case <-time.After(2 * time.Minute):
			t.Fatalf("%d of %d came", len(seen), len(bodies))
		}
	}
}

// TestRealRMW: mail for rmw_email comes through the servers, 8-bit text too.
func TestRealRMW(t *testing.T) {
	config, _ := real(t)
	config.To, config.RMWEmail = []string{config.Username}, true
	b := realNode(t, config)
	b.gid = b.gid.Short() // no more of it comes back
	for _, body := range []string{"{a: 1, b: 2}", "{text: \"grüß dich\"}\n", "", "From x\n.\n"} {
		if err := b.carrier.Send(t.Context(), b.message(body)); err != nil {
			t.Fatal(err)
		}
		select {
		case m := <-b.got:
			if string(m.Body) != body {
				t.Errorf("body %q, want %q", m.Body, body)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%q did not come", body)
		}
	}
}

// TestRealSkipped: Dovecot marks and moves what is skipped, and has the folder created.
func TestRealSkipped(t *testing.T) {
	mark := "X" + transport.NewGID().String()[:8]
	for name, change := range map[string]func(*email.Config){
		"flag": func(c *email.Config) { c.SkippedFlag = mark },
		"move": func(c *email.Config) { c.SkippedFolder = mark + " übrig" },
	} {
		t.Run(name, func(t *testing.T) {
			config, peer := real(t)
			c, err := imapclient.DialInsecure(strings.TrimPrefix(variable(t, "POSTBUS_TEST_IMAP_INSECURE"), "imap+insecure://"), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := c.Login(config.Username, config.Password).Wait(); err != nil {
				t.Fatal(err)
			}
			config.To = []string{config.Username}
			change(&config)
			b := realNode(t, config)
			subject := "lunch " + mark + " " + name
			realMail(t, peer.Username, config.Username, "From: "+peer.Username+"\nSubject: "+subject+"\n\nAt noon?\n")
			criteria := &imap.SearchCriteria{Header: []imap.SearchCriteriaHeaderField{{Key: "Subject", Value: subject}}}
			folder := "INBOX"
			if config.SkippedFolder != "" {
				folder = config.SkippedFolder
				defer func() {
					if err := errors.Join(c.Unselect().Wait(), c.Delete(folder).Wait()); err != nil {
						t.Error(err)
					}
				}()
			} else {
				criteria.Flag = []imap.Flag{imap.Flag(mark)}
			}
			for range 100 {
				b.send() // so that there is an event to wait for
				b.wantAll(1)
				if _, err := c.Select(folder, &imap.SelectOptions{ReadOnly: true}).Wait(); err != nil {
					continue
				}
				found, err := c.Search(criteria, nil).Wait()
				if err != nil {
					t.Fatal(err)
				}
				if len(found.AllSeqNums()) == 1 {
					return
				}
			}
			t.Errorf("the mail is not there; skipped %v", b.carrier.Skipped())
		})
	}
}
