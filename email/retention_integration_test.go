//go:build integration

package email

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"github.com/postbus/postbus/transport"
)

// TestRealRetention: finished messages are marked, moved and deleted on Dovecot, and other mail is left
// alone. It watches a folder of its own: in the inbox, which all tests share, the young mail of others would be in
// the way, since nothing behind it is looked at.
func TestRealRetention(t *testing.T) {
	const watched, done, day = "postbus-test-retention", "postbus-test-done", 24 * time.Hour
	ca, err := os.ReadFile(os.Getenv("POSTBUS_TEST_CA"))
	if err != nil {
		t.Fatal(err)
	}
	config := Config{SMTP: os.Getenv("POSTBUS_TEST_SMTP"), IMAP: os.Getenv("POSTBUS_TEST_IMAP"), CA: ca,
		Username: os.Getenv("POSTBUS_TEST_PEER"), Password: os.Getenv("POSTBUS_TEST_PEER_PASSWORD")}
	pool, err := certPool(ca)
	if err != nil {
		t.Fatal(err)
	}
	client, err := imapclient.DialTLS(strings.TrimPrefix(config.IMAP, "imaps://"), &imapclient.Options{TLSConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.Login(config.Username, config.Password).Wait(); err != nil {
		t.Fatal(err)
	}
	remove := func() {
		_ = client.Unselect().Wait() // it may be none of them
		for _, folder := range []string{watched, done} {
			_ = client.Delete(folder).Wait() // it may be missing
		}
	}
	remove() // what a test that was killed has left
	if err := client.Create(watched, nil).Wait(); err != nil {
		t.Fatal(err)
	}
	defer remove()
	config.IMAP += "/" + watched
	a := &archive{TB: t, client: client, folder: watched}
	// state says where the mails of this test are, and which of them are marked.
	state := func(subject string) string {
		t.Helper()
		var found []string
		for _, box := range []string{watched, done} {
			data, err := client.Select(box, &imap.SelectOptions{ReadOnly: true}).Wait()
			if err != nil || data.NumMessages == 0 {
				continue // it may be missing
			}
			search, err := client.UIDSearch(&imap.SearchCriteria{Header: []imap.SearchCriteriaHeaderField{{Key: "Subject", Value: subject}}}, nil).Wait()
			if err != nil {
				t.Fatal(err)
			}
			for _, uid := range search.AllUIDs() {
				mails, err := client.Fetch(imap.UIDSetNum(uid), &imap.FetchOptions{Flags: true, UID: true}).Collect()
				if err != nil {
					t.Fatal(err)
				}
				if len(mails) == 0 {
					continue // it has just been done away with
				}
				for _, flag := range mails[0].Flags {
					if flag == imap.FlagSeen {
						box += "*"
					}
				}
				found = append(found, strings.TrimPrefix(box, "postbus-test-"))
			}
		}
		return strings.Join(found, " ")
	}
	for _, test := range []struct {
		retention Retention
		want      string
	}{
		{Retention{Action: MarkSeen, After: day}, "retention*"},
		{Retention{Action: MoveMessages, Folder: done, After: day}, "done"},
		{Retention{Action: DeleteMessages, After: day}, ""},
	} {
		t.Run(string(test.retention.Action), func(t *testing.T) {
			name := fmt.Sprintf("/retention/%d", time.Now().UnixNano())
			young := strings.TrimPrefix(name, "/") + "/young"
			for _, m := range []struct {
				name string
				age  time.Duration
			}{{name + "/old", day + time.Hour}, {"/" + young, time.Hour}} {
				a.put(strings.Replace(messageMail(t, 1, ""), "Subject: /t", "Subject: "+m.name, 1), m.age)
			}
			a.put("Subject: letter "+name+"\r\n\r\nHello!\r\n", day+time.Hour)
			config.Retention = test.retention
			c, err := newCarrier(config, Options{Logger: quietLog})
			if err != nil {
				t.Fatal(err)
			}
			c.receiver.retention.pause = 100 * time.Millisecond
			if err := c.sender.open(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := c.receiver.open(t.Context()); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := c.Close(context.Background()); err != nil {
					t.Error(err)
				}
			}()
			if _, err := c.Receive(transport.Interest{Kind: transport.TopicMessage, Name: "/t"}, func(transport.Delivery) {}); err != nil {
				t.Fatal(err)
			}
			for start := time.Now(); state(name+"/old") != test.want; time.Sleep(50 * time.Millisecond) {
				if time.Since(start) > 30*time.Second {
					t.Fatalf("the old message is in %q, want %q", state(name+"/old"), test.want)
				}
			}
			if got := state(young); got != "retention" {
				t.Errorf("the young message is in %q", got)
			}
			if got := state("letter " + name); got != "retention" {
				t.Errorf("the letter is in %q", got)
			}
		})
	}
}
