package mailserver_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
	"github.com/emersion/go-sasl"

	"github.com/postbus/postbus/email/mailserver"
)

// responseCode returns the response code of a NO, or what the error is instead.
func responseCode(err error) string {
	var imapErr *imap.Error
	if !errors.As(err, &imapErr) {
		return fmt.Sprint("no answer: ", err)
	}
	return string(imapErr.Type) + " " + string(imapErr.Code)
}

func TestIMAPLogin(t *testing.T) {
	server := start(t, mailserver.Config{})
	dial := func() *imapclient.Client {
		c, err := imapclient.DialInsecure(server.IMAPAddr(), nil)
		check(t, err)
		t.Cleanup(func() { c.Close() })
		return c
	}
	if got := responseCode(dial().Login(robot, "wrong").Wait()); got != "NO AUTHENTICATIONFAILED" {
		t.Error(got)
	}
	if got := responseCode(dial().Login("nobody@localhost.test", "robot").Wait()); got != "NO AUTHENTICATIONFAILED" {
		t.Error(got)
	}
	c := dial()
	check(t, c.Authenticate(sasl.NewPlainClient("", "Robot@localhost.TEST", "robot")))
	for _, want := range []imap.Cap{
		imap.CapIMAP4rev1, imap.CapIMAP4rev2, imap.CapIdle, imap.CapUIDPlus, imap.CapMove,
		imap.CapESearch, imap.CapNamespace, imap.CapEnable,
	} {
		if !c.Caps().Has(want) {
			t.Errorf("%s is missing from %v", want, c.Caps())
		}
	}
	if _, err := c.Namespace().Wait(); err != nil {
		t.Error(err)
	}
	check(t, c.Noop().Wait())
	check(t, c.Logout().Wait())
	if stats := server.Stats(); stats.IMAPLogins != 1 || stats.FailedLogins != 2 {
		t.Errorf("%+v", stats)
	}
}

func TestIMAP4rev2(t *testing.T) {
	server := start(t, mailserver.Config{})
	c := dialIMAP(t, server, robot)
	_, err := c.Enable(imap.CapIMAP4rev2).Wait()
	check(t, err)
	data, err := c.Select("INBOX", nil).Wait()
	check(t, err)
	if data.List == nil || data.List.Mailbox != "INBOX" {
		t.Errorf("%+v", data.List)
	}
	c.append("INBOX", hello)
	found, err := c.UIDSearch(&imap.SearchCriteria{}, nil).Wait()
	check(t, err)
	if found.All.String() != "1" {
		t.Errorf("%+v", found)
	}
}

func TestMailboxes(t *testing.T) {
	server := start(t, mailserver.Config{})
	c := dialIMAP(t, server, robot)
	c.append("INBOX", hello)
	list := func(pattern string, options *imap.ListOptions) string {
		found, err := c.List("", pattern, options).Collect()
		check(t, err)
		var names []string
		for _, data := range found {
			names = append(names, data.Mailbox)
			if data.Status != nil {
				names = append(names, fmt.Sprint(*data.Status.NumMessages))
			}
		}
		return strings.Join(names, " ")
	}
	check(t, c.Create("a/b/c", nil).Wait())
	if got := list("*", nil); got != "INBOX a a/b a/b/c" {
		t.Error(got)
	}
	if got := list("%", nil); got != "INBOX a" {
		t.Error(got)
	}
	if got := list("inbox", &imap.ListOptions{ReturnStatus: &imap.StatusOptions{NumMessages: true}}); got != "INBOX 1" {
		t.Error(got)
	}
	if got := list(strings.Repeat("*a", 1000), nil); got != "" {
		t.Error(got)
	}
	check(t, c.Subscribe("a/b").Wait())
	if got := list("*", &imap.ListOptions{SelectSubscribed: true}); got != "a/b" {
		t.Error(got)
	}
	check(t, c.Unsubscribe("a/b").Wait())

	first, err := c.Select("a/b/c", nil).Wait()
	check(t, err)
	check(t, c.Rename("a", "z/y", nil).Wait())
	if got := list("*", nil); got != "INBOX z z/y z/y/b z/y/b/c" {
		t.Error(got)
	}
	check(t, c.Rename("INBOX", "old", nil).Wait())
	if got := list("*", &imap.ListOptions{ReturnStatus: &imap.StatusOptions{NumMessages: true}}); got != "INBOX 0 old 1 z 0 z/y 0 z/y/b 0 z/y/b/c 0" {
		t.Error(got)
	}
	for want, err := range map[string]error{
		"NO ALREADYEXISTS": c.Create("old", nil).Wait(),
		"NO NONEXISTENT":   c.Delete("none").Wait(),
		"NO CANNOT":        c.Delete("INBOX").Wait(),
		"NO HASCHILDREN":   c.Delete("z").Wait(),
	} {
		if got := responseCode(err); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	for _, name := range []string{"x//y", "/x", strings.Repeat("x", 600)} {
		if got := responseCode(c.Create(name, nil).Wait()); got != "NO CANNOT" {
			t.Errorf("%.10s: %s", name, got)
		}
	}
	if _, err := c.Select("none", nil).Wait(); responseCode(err) != "NO NONEXISTENT" {
		t.Error(err)
	}
	// A mailbox that is made again is another one.
	check(t, c.Delete("z/y/b/c").Wait())
	check(t, c.Create("z/y/b/c", nil).Wait())
	second, err := c.Select("z/y/b/c", nil).Wait()
	check(t, err)
	if second.UIDValidity <= first.UIDValidity {
		t.Errorf("UIDVALIDITY %d after %d", second.UIDValidity, first.UIDValidity)
	}

	// The mailbox under a client's feet goes away.
	other := dialIMAP(t, server, robot)
	_, err = other.Select("old", nil).Wait()
	check(t, err)
	check(t, c.Delete("old").Wait())
	check(t, other.Noop().Wait())
	expect(t, "EXPUNGE", other.expunged, is(uint32(1)))
}
