package email_test

import (
	"slices"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/email/internal/claim"
	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/internal/torture/proxy"
)

// deleteLog deletes the folder of the group.
func (x *team) deleteLog() {
	x.Helper()
	for _, folder := range x.folders() {
		if err := x.mailbox.client("").Delete(folder).Wait(); err != nil {
			x.Fatal(err)
		}
	}
}

// TestGroupLogDeleted: somebody deletes the folder of the group.
func TestGroupLogDeleted(t *testing.T) {
	t.Parallel()
	x, _ := embeddedTeam(t)
	testGroupLogDeleted(x)
}

func testGroupLogDeleted(x *team) {
	seen := make(map[uint64]bool)
	x.join("a")
	x.join("b")
	for range 3 {
		x.publish(100)
		x.once(seen)
		x.deleteLog()
	}
	x.publish(100)
	x.once(seen)
	x.join("c")
	x.publish(100)
	x.once(seen)
	x.nothing()
}

// acquaint waits until all members have read that the others are there.
func (x *team) acquaint(seen map[uint64]bool, members ...string) {
	x.Helper()
	for range 2 { // who takes part the second time has read what the others have written the first time
		missing := slices.Clone(members)
		for len(missing) > 0 {
			x.publish(1)
			shares := x.once(seen)
			missing = slices.DeleteFunc(missing, func(name string) bool { return shares[name] > 0 })
		}
	}
}

// behindProxy returns the configuration of a member that reads and writes the log through a proxy.
func (x *team) behindProxy(server *mailserver.Server) (*proxy.Proxy, email.Config) {
	x.Helper()
	p, err := proxy.Listen(server.IMAPAddr())
	if err != nil {
		x.Fatal(err)
	}
	x.Cleanup(func() { p.Close() })
	config := x.config
	config.IMAP = "imap+insecure://" + p.Addr()
	return p, config
}

// TestGroupLogDeletedUnread: the log is deleted before a member has read what the other has done. It waits until the other
// says so, and takes nothing for that which was meant for the old log: who has written it has not yet noticed.
func TestGroupLogDeletedUnread(t *testing.T) {
	t.Parallel()
	x, server := embeddedTeam(t)
	p, config := x.behindProxy(server)
	seen := make(map[uint64]bool)
	x.joinWith("a", config, x.interest)
	x.join("b")
	x.acquaint(seen, "a", "b")
	p.Set(proxy.ToServer, proxy.Rule{Hold: true}) // a reads nothing
	x.publish(20)
	if shares := x.once(seen); len(shares) != 1 {
		t.Fatalf("shares: %v", shares)
	}
	x.deleteLog()
	p.Heal()
	x.awaitRecords(2) // a says what it has done
	x.publish(20)
	x.once(seen)
	x.nothing()
}

// awaitRecords waits until there is a log of at least so many records.
func (x *team) awaitRecords(n int) {
	x.Helper()
	for start := time.Now(); len(x.folders()) == 0 || x.records() < n; time.Sleep(time.Millisecond) {
		if time.Since(start) > timeout {
			x.Fatal("nobody begins a new log")
		}
	}
}

// TestGroupLogDeletedAgain: the log is deleted once more while a member waits in it for the word of another, before which
// it claims nothing, and so writes nothing. The other speaks in a new log.
func TestGroupLogDeletedAgain(t *testing.T) {
	t.Parallel()
	x, server := embeddedTeam(t)
	p, config := x.behindProxy(server)
	seen := make(map[uint64]bool)
	x.join("a")
	x.joinWith("b", config, x.interest)
	x.acquaint(seen, "a", "b")
	p.Set(proxy.ToServer, proxy.Rule{Hold: true}) // b says nothing
	x.deleteLog()
	x.publish(20)
	x.awaitRecords(2) // a says what it has done
	x.deleteLog()
	p.Cut()
	p.Heal()
	start := time.Now()
	x.once(seen)
	if took := time.Since(start); took > claim.CheckEvery/2 {
		t.Errorf("it took %v", took)
	}
	x.nothing()
}

// TestGroupLogEmptied: somebody deletes the records. Who joins then learns from the others what has been.
func TestGroupLogEmptied(t *testing.T) {
	t.Parallel()
	x, _ := embeddedTeam(t)
	seen := make(map[uint64]bool)
	held := x.interest
	held.InFlight = 5
	x.joinWith("a", x.config, held)
	x.publish(100)
	x.once(seen)
	c := x.mailbox.client(x.folders()[0])
	if err := c.Store(imap.UIDSet{{Start: 1, Stop: 1<<32 - 1}}, &imap.StoreFlags{Op: imap.StoreFlagsAdd, Flags: []imap.Flag{imap.FlagDeleted}}, nil).Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Expunge().Close(); err != nil {
		t.Fatal(err)
	}
	x.join("b")
	x.publish(100)
	x.once(seen)
	x.nothing()
}
