package email_test

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/pubsub"
)

// mailbox lists a folder of the robot's account: the Subjects, with the flags behind.
func (o *office) mailbox(folder string) []string {
	o.Helper()
	conn, err := net.Dial("tcp", o.server.IMAPAddr())
	if err != nil {
		o.Fatal(err)
	}
	c := imapclient.New(conn, nil)
	defer c.Close()
	if err := c.Login(o.robot, o.server.Accounts()[0].Password).Wait(); err != nil {
		o.Fatal(err)
	}
	data, err := c.Select(folder, &imap.SelectOptions{ReadOnly: true}).Wait()
	if err != nil || data.NumMessages == 0 {
		return nil // it may be missing
	}
	mails, err := c.Fetch(imap.SeqSet{{Start: 1, Stop: 0}}, &imap.FetchOptions{Envelope: true, Flags: true}).Collect()
	if err != nil {
		o.Fatal(err)
	}
	var list []string
	for _, m := range mails {
		var flags []string
		for _, f := range m.Flags {
			if !strings.HasPrefix(string(f), `\`) || f == imap.FlagSeen {
				flags = append(flags, string(f))
			}
		}
		if m.Envelope.Subject != "/barrier" {
			list = append(list, strings.TrimSpace(m.Envelope.Subject+" "+strings.Join(flags, " ")))
		}
	}
	return list
}

// TestSkippedMailIsSorted: mail that is skipped is marked or moved, and no other is
// touched; messages come all the same.
func TestSkippedMailIsSorted(t *testing.T) {
	for _, test := range []struct {
		name          string
		change        func(*email.Config)
		inbox, folder []string
	}{
		{"neither", func(*email.Config) {}, []string{"lunch?", "away", "/damaged", "/unwanted", "Undelivered Mail Returned to Sender", "/chatter"}, nil},
		{"flag", func(c *email.Config) { c.SkippedFlag = "$Skipped" },
			[]string{"lunch? $skipped", "away $skipped", "/damaged $skipped", "/unwanted", "Undelivered Mail Returned to Sender", "/chatter"}, nil},
		{"move", func(c *email.Config) { c.SkippedFolder = "Übersprungen & more" },
			[]string{"/unwanted", "Undelivered Mail Returned to Sender", "/chatter"}, []string{"lunch?", "away", "/damaged"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := newOffice(t, func(c *email.Config) {
				c.To = []string{c.Username}
				test.change(c)
			})
			sub, err := pubsub.NewSubscription(o.node, "/chatter")
			if err != nil {
				t.Fatal(err)
			}
			publish := func(name string) {
				t.Helper()
				pub, err := pubsub.NewPublisher(o.node, name)
				if err != nil {
					t.Fatal(err)
				}
				if err := pub.Publish(t.Context(), nil); err != nil {
					t.Fatal(err)
				}
			}
			o.letter("lunch?", "At noon?")
			o.write("From: PERSON\nSubject: away\nAuto-Submitted: auto-replied\n\nI am away.\n", "")
			o.write("From: PERSON\nSubject: /damaged\nPublisher-GID: 1\nPublisher-GID: 2\nSource-Timestamp: yesterday\n\n\n", "")
			publish("/unwanted")
			o.write(strings.ReplaceAll(bounceMail, "ACTION", "failed"), "<1@elsewhere>")
			publish("/chatter")
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			if _, err := sub.Next(ctx); err != nil {
				t.Fatal(err)
			}
			o.skipped(map[email.SkipReason]uint64{email.ForeignMail: 1, email.AutomaticMail: 1, email.MalformedMail: 1})
			for {
				inbox, folder := o.mailbox("INBOX"), o.mailbox("Übersprungen & more")
				if slices.EqualFunc(inbox, test.inbox, strings.EqualFold) && slices.Equal(folder, test.folder) {
					break
				}
				if ctx.Err() != nil {
					t.Fatalf("inbox %q, folder %q, want %q, %q; log:\n%s", inbox, folder, test.inbox, test.folder, o.log.String())
				}
				o.barrier() // they are sorted after messages have been delivered
			}
		})
	}
}

func TestSkippedConfig(t *testing.T) {
	good := email.Config{SMTP: "smtp.test", IMAP: "imap.test", Username: "me@test"}
	for want, change := range map[string]func(*email.Config){
		"email.skipped: SkippedFlag and SkippedFolder are both set": func(c *email.Config) { c.SkippedFlag, c.SkippedFolder = "a", "b" },
		"email.skipped.flag: ": func(c *email.Config) { c.SkippedFlag = `\Seen` },
		"email.skipped.move: ": func(c *email.Config) { c.SkippedFolder = "inbox" },
		"email.people: ":       func(c *email.Config) { c.People = []string{"@"} },
	} {
		config := good
		change(&config)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := email.Open(ctx, config, email.Options{Logger: quiet}); err == nil || !strings.Contains(err.Error(), "configuration: "+want) {
			t.Errorf("error %v, want %q in it", err, want)
		}
	}
}
