package email_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/internal/torture/proxy"
	"github.com/postbus/postbus/transport"
)

// team is a group under test, and who publishes to it.
type team struct {
	testing.TB
	mailbox   mailbox
	config    email.Config
	interest  transport.Interest
	publisher *email.Carrier
	gid       transport.GID
	sent      uint64
	handled   chan handling
}

// handling is what a member says about a message.
type handling struct {
	member  string
	number  uint64
	attempt int
	err     error
}

func embeddedTeam(t testing.TB) (*team, *mailserver.Server) {
	t.Helper()
	server, err := mailserver.Start(mailserver.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	account := server.Accounts()[0]
	return newTeam(t, dialMailbox(t, server), email.Config{SMTP: server.SMTPURL(), IMAP: server.IMAPURL(), Username: account.Address, Password: account.Password}), server
}

func newTeam(t testing.TB, m mailbox, config email.Config) *team {
	t.Helper()
	config.To = []string{config.Username}
	name := rand.Text()
	x := &team{TB: t, mailbox: m, config: config, gid: transport.NewGID(), handled: make(chan handling, 1<<16),
		interest: transport.Interest{Kind: transport.TopicMessage, Name: "/" + name, Group: name}}
	x.publisher = open(t, config)
	t.Cleanup(func() {
		x.publisher.Close(context.Background())
		for _, folder := range x.folders() {
			_ = x.mailbox.client("").Delete(folder).Wait()
		}
	})
	return x
}

// folders returns the folders of the group.
func (x *team) folders() (names []string) {
	x.Helper()
	found, err := x.mailbox.client("").List("", "*postbus-group-"+x.interest.Group+"*", nil).Collect()
	if err != nil {
		x.Fatal(err)
	}
	for _, f := range found {
		names = append(names, f.Mailbox)
	}
	return names
}

// join opens a member that acknowledges all that it gets.
func (x *team) join(name string) *email.Carrier {
	x.Helper()
	return x.joinWith(name, x.config, x.interest)
}

func (x *team) joinWith(name string, config email.Config, interest transport.Interest) *email.Carrier {
	x.Helper()
	c := open(x, config)
	x.state(c, name, interest)
	x.Cleanup(func() {
		if err := c.Close(context.Background()); err != nil {
			x.Error(err)
		}
	})
	return c
}

// state states the interest of a member.
func (x *team) state(c *email.Carrier, name string, interest transport.Interest) (stop func()) {
	x.Helper()
	var acks sync.WaitGroup
	stop, err := c.Receive(interest, func(d transport.Delivery) {
		acks.Go(func() {
			x.handled <- handling{name, d.Message.Info.Sequence, d.Attempt, d.Ack()}
		})
	})
	if err != nil {
		x.Fatal(err)
	}
	return stop
}

// publish publishes n messages.
func (x *team) publish(n int) {
	x.Helper()
	for n > 0 {
		var some []*transport.Message
		for range min(n, 50) {
			x.sent++
			m := &transport.Message{Kind: transport.TopicMessage, Name: x.interest.Name, ID: transport.NewID(x.gid, x.sent, "test")}
			m.Info.PublisherGID, m.Info.Sequence, m.Info.SourceTime = x.gid, x.sent, time.Now()
			some = append(some, m)
		}
		n -= len(some)
		if err := x.publisher.Send(x.Context(), some...); err != nil {
			x.Fatal(err)
		}
	}
}

// once waits until all messages have been handled, each once. It returns how many each member has.
func (x *team) once(seen map[uint64]bool) map[string]int {
	x.Helper()
	members := make(map[string]int)
	patience := time.NewTimer(4 * timeout) // messages are held back for up to 90 s when a log is deleted
	defer patience.Stop()
	for uint64(len(seen)) < x.sent {
		select {
		case h := <-x.handled:
			if h.err != nil {
				x.Logf("%s: message %d: %v", h.member, h.number, h.err)
				continue
			}
			if seen[h.number] {
				x.Errorf("%s has handled message %d, which had been", h.member, h.number)
			}
			seen[h.number] = true
			members[h.member]++
		case <-patience.C:
			x.Fatalf("%d of %d messages have been handled", len(seen), x.sent)
		}
	}
	return members
}

// nothing checks that nothing more comes.
func (x *team) nothing() {
	x.Helper()
	select {
	case h := <-x.handled:
		x.Errorf("%s got message %d once more: %v", h.member, h.number, h.err)
	case <-time.After(500 * time.Millisecond):
	}
}

// records returns how many mails the folder of the group has.
func (x *team) records() int {
	x.Helper()
	folders := x.folders()
	if len(folders) != 1 {
		x.Fatalf("folders %q", folders)
	}
	return x.mailbox.count(x.mailbox.client(folders[0]))
}

func TestGroupShares(t *testing.T) {
	t.Parallel()
	x, _ := embeddedTeam(t)
	testGroupShares(x, 500)
}

func testGroupShares(x *team, n int) {
	seen := make(map[uint64]bool)
	x.join("a")
	x.join("b")
	two := x.all(seen, n, 2)
	for _, name := range []string{"c", "d", "e"} {
		x.join(name)
	}
	five := x.all(seen, n, 5)
	x.nothing()
	x.Logf("shares: %v, then %v; %d records", two, five, x.records())
}

// all publishes n messages at a time, until so many members have handled some: on a busy machine one may be late.
func (x *team) all(seen map[uint64]bool, n, members int) map[string]int {
	x.Helper()
	shares := make(map[string]int)
	for range 10 {
		x.publish(n)
		for member, share := range x.once(seen) {
			shares[member] += share
		}
		if len(shares) == members {
			return shares
		}
	}
	x.Fatalf("not everybody took part: %v", shares)
	return nil
}

// TestGroupStopsAndGoesOn: what arrives while there is no member is not lost.
func TestGroupStopsAndGoesOn(t *testing.T) {
	t.Parallel()
	x, _ := embeddedTeam(t)
	seen := make(map[uint64]bool)
	a := x.join("a")
	x.publish(10)
	x.once(seen)
	if err := a.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	x.publish(500)
	x.join("b")
	x.join("c")
	x.once(seen)
	x.nothing()
}

// TestGroupRejoins: one that has stopped and states its interest again goes on.
func TestGroupRejoins(t *testing.T) {
	t.Parallel()
	x, _ := embeddedTeam(t)
	seen := make(map[uint64]bool)
	c := open(t, x.config)
	t.Cleanup(func() { c.Close(context.Background()) })
	for range 5 {
		stop := x.state(c, "a", x.interest)
		x.publish(7)
		x.once(seen)
		stop()
		x.publish(3)
	}
	x.state(c, "a", x.interest)
	x.once(seen)
	x.nothing()
}

// TestGroupCut: connections are cut again and again, so that nobody knows what has been stored.
func TestGroupCut(t *testing.T) {
	t.Parallel()
	x, server := embeddedTeam(t)
	testGroupCut(x, server.IMAPAddr(), func(addr string) string { return "imap+insecure://" + addr }, 300)
}

func testGroupCut(x *team, addr string, url func(string) string, n int) {
	seen := make(map[uint64]bool)
	var proxies []*proxy.Proxy
	for _, name := range []string{"a", "b"} {
		p, err := proxy.Listen(addr)
		if err != nil {
			x.Fatal(err)
		}
		x.Cleanup(func() { p.Close() })
		config := x.config
		config.IMAP = url(p.Addr())
		x.joinWith(name, config, x.interest)
		proxies = append(proxies, p)
	}
	var cutting sync.WaitGroup
	cutting.Go(func() {
		for i := range int64(5) {
			for _, p := range proxies {
				p.CutAfter(proxy.ToClient, 1500+i*397)
				p.CutAfter(proxy.ToServer, 2500+i*353)
			}
			time.Sleep(300 * time.Millisecond)
		}
		for _, p := range proxies {
			p.Heal()
		}
	})
	x.publish(n)
	x.once(seen)
	cutting.Wait()
	for i, p := range proxies {
		_, total := p.Connections()
		if x.Logf("member %d: %d connections", i, total); total < 4 {
			x.Errorf("the connections of member %d were hardly cut", i)
		}
	}
	x.publish(10)
	x.once(seen)
	x.nothing()
}

// TestGroupLogStaysShort: checkpoints replace what has been.
func TestGroupLogStaysShort(t *testing.T) {
	t.Parallel()
	x, _ := embeddedTeam(t)
	seen := make(map[uint64]bool)
	one := x.interest
	one.InFlight = 1
	x.joinWith("a", x.config, one)
	x.joinWith("b", x.config, one)
	for range 5 {
		x.publish(100)
		x.once(seen)
		if n := x.records(); n > 400 {
			t.Errorf("%d records", n)
		}
	}
	x.nothing()
	t.Logf("%d records after %d messages, one at a time", x.records(), x.sent)
}

// TestGroupLease: a member is gone without a word, as behind a cut cable. Another takes over what it had, after the lease; and what
// it says then does not count.
func TestGroupLease(t *testing.T) {
	t.Parallel()
	x, server := embeddedTeam(t)
	testGroupLease(x, server.IMAPAddr(), func(addr string) string { return "imap+insecure://" + addr })
}

func testGroupLease(x *team, addr string, url func(string) string) {
	p, err := proxy.Listen(addr)
	if err != nil {
		x.Fatal(err)
	}
	x.Cleanup(func() { p.Close() })
	config := x.config
	config.IMAP = url(p.Addr())
	gone := open(x, config)
	x.Cleanup(func() {
		if err := gone.Close(context.Background()); err != nil {
			x.Error(err)
		}
	})
	interest := x.interest
	interest.Lease = transport.MinLease
	held := make(chan transport.Delivery, 10)
	if _, err := gone.Receive(interest, func(d transport.Delivery) { held <- d }); err != nil {
		x.Fatal(err)
	}
	x.publish(1)
	d := <-held
	seen := make(map[uint64]bool)
	x.joinWith("b", x.config, interest)
	time.Sleep(2 * interest.Lease) // it holds on to what it has as long as it can speak
	select {
	case h := <-x.handled:
		x.Fatalf("%s got message %d, which another has", h.member, h.number)
	default:
	}
	p.Set(proxy.ToServer, proxy.Rule{Hold: true})
	start := time.Now()
	x.once(seen)
	after := time.Since(start)
	x.Logf("taken over after %v, with a lease of %v", after.Round(time.Millisecond), interest.Lease)
	if after < interest.Lease*2/3 || after > 3*interest.Lease {
		x.Errorf("taken over after %v, with a lease of %v", after, interest.Lease)
	}
	p.Cut()
	p.Heal()
	if err := d.Ack(); err == nil || !strings.Contains(err.Error(), "taken") {
		x.Errorf("who has lost a message may settle it: %v", err)
	}
	x.nothing()
}

// TestGroupDeadLetters: what is given up is listed.
func TestGroupDeadLetters(t *testing.T) {
	x, _ := embeddedTeam(t)
	c := open(t, x.config)
	t.Cleanup(func() { c.Close(context.Background()) })
	in := x.interest
	in.MaxDeliver = 2
	if _, err := c.Receive(in, func(d transport.Delivery) {
		if d.Message.Info.Sequence == 1 {
			d.Nack(0, "it never works")
		} else {
			d.Term("it makes no sense")
		}
	}); err != nil {
		t.Fatal(err)
	}
	x.publish(2)
	deadline := time.Now().Add(timeout)
	var dead []email.GroupDeadLetter
	for len(dead) < 2 && time.Now().Before(deadline) {
		dead = c.GroupDeadLetters()
		time.Sleep(10 * time.Millisecond)
	}
	reasons := make(map[string]int)
	for _, d := range dead {
		reasons[d.Reason] = d.Attempts
		if d.Group != in.Group || d.Name != in.Name || d.Kind != in.Kind || d.UID == 0 || d.At.IsZero() || !strings.HasPrefix(d.Message, x.gid.String()) {
			t.Errorf("%+v", d)
		}
	}
	if len(dead) != 2 || reasons["it never works"] != 2 || reasons["it makes no sense"] != 1 {
		t.Error(fmt.Sprint(dead))
	}
}
