package email_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/transport"
)

// memberEnv makes the test binary a member of a group: it holds a memberOrder.
const memberEnv = "POSTBUS_TEST_GROUP_MEMBER"

// memberOrder is what a process is to be a member of.
type memberOrder struct {
	Config   email.Config
	Kind     transport.Kind
	Name     string
	Group    string
	Lease    time.Duration
	InFlight int
}

// beMember handles messages until the process is killed or its standard input ends. It tells when it begins with one and when
// that is on record.
func beMember(text string) error {
	var order memberOrder
	if err := json.Unmarshal([]byte(text), &order); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c, err := email.Open(ctx, order.Config, email.Options{})
	if err != nil {
		return err
	}
	if _, err := c.Receive(transport.Interest{Kind: order.Kind, Name: order.Name, Group: order.Group, Lease: order.Lease, InFlight: order.InFlight}, func(d transport.Delivery) {
		n := d.Message.Info.Sequence
		fmt.Printf("begin %d\n", n)
		go func() {
			if err := d.Ack(); err == nil {
				fmt.Printf("done %d\n", n)
			}
		}()
	}); err != nil {
		return err
	}
	_, _ = os.Stdin.Read(make([]byte, 1))
	return c.Close(context.Background())
}

// process is a member in a process of its own.
type process struct {
	name   string
	cmd    *exec.Cmd
	begun  map[uint64]bool
	done   map[uint64]bool
	events chan event // closed when the process has ended
	stop   func() error
}

type event struct {
	what   string
	number uint64
}

func (x *team) process(name string, inFlight int) *process {
	x.Helper()
	order, err := json.Marshal(memberOrder{x.config, x.interest.Kind, x.interest.Name, x.interest.Group, transport.MinLease, inFlight})
	if err != nil {
		x.Fatal(err)
	}
	p := &process{name: name, cmd: exec.Command(os.Args[0]), begun: make(map[uint64]bool), done: make(map[uint64]bool), events: make(chan event, 1<<16)}
	p.cmd.Env = append(os.Environ(), memberEnv+"="+string(order))
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		x.Fatal(err)
	}
	in, err := p.cmd.StdinPipe()
	if err != nil {
		x.Fatal(err)
	}
	p.stop = in.Close
	if err := p.cmd.Start(); err != nil {
		x.Fatal(err)
	}
	x.Cleanup(func() { p.cmd.Process.Kill() })
	go func() {
		defer close(p.events)
		defer func() { _ = p.cmd.Wait() }() // it may have been killed
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var e event
			if _, err := fmt.Sscanf(lines.Text(), "%s %d", &e.what, &e.number); err == nil {
				p.events <- e
			}
		}
	}()
	return p
}

// note notes an event.
func (p *process) note(e event) {
	if e.what == "done" {
		p.done[e.number] = true
	} else {
		p.begun[e.number] = true
	}
}

// TestGroupProcesses: members in several processes, of which two are killed in the middle. What they had is
// taken over, and nothing is handled twice.
func TestGroupProcesses(t *testing.T) {
	t.Parallel()
	x, _ := embeddedTeam(t)
	testGroupProcesses(x, 1000)
}

func testGroupProcesses(x *team, n int) {
	// The group begins with its first member.
	first := x.join("first")
	x.publish(1)
	x.once(make(map[uint64]bool))
	if err := first.Close(x.Context()); err != nil {
		x.Fatal(err)
	}
	var members []*process
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		members = append(members, x.process(name, 20))
	}
	merged := make(chan func(), 1<<10)
	for _, p := range members {
		go func() {
			for e := range p.events {
				merged <- func() { p.note(e) }
			}
		}()
	}
	// Whoever comes to a third of the messages in time, one of them gets enough of it to be killed.
	kills := make(chan struct{}, 2)
	published := make(chan struct{})
	go func() {
		defer close(published)
		x.publish(n / 3)
		for _, more := range []int{n / 3, n - 2*(n/3)} {
			select {
			case <-kills:
				x.publish(more)
			case <-x.Context().Done():
				return
			}
		}
	}()
	var killed []*process
	patience := time.After(4 * timeout)
	var settled <-chan time.Time // when what was taken over must have been handled
	for settled != nil || missing(n, members, killed) > 0 {
		select {
		case note := <-merged:
			note()
			noneTwice(x, members, killed)
		case <-settled:
			settled = nil
			continue
		case <-patience:
			x.Fatalf("%d of %d messages are missing", missing(n, members, killed), n)
		}
		if i := slices.IndexFunc(members, func(p *process) bool { return len(p.done) >= n/20 }); i >= 0 && len(killed) < 2 {
			_ = members[i].cmd.Process.Kill() // it can't be gone yet
			killed = append(killed, members[i])
			members = slices.Delete(members, i, i+1)
			kills <- struct{}{}
		}
		if settled == nil && missing(n, members, killed) == 0 {
			settled = time.After(2 * transport.MinLease)
		}
	}
	<-published
	for _, p := range append(members, killed...) {
		_ = p.stop() // it may have been killed
		x.Logf("%s: %d begun, %d done", p.name, len(p.begun), len(p.done))
	}
}

// noneTwice checks that no message has been handled by two.
func noneTwice(x *team, lists ...[]*process) {
	x.Helper()
	count := make(map[uint64]int)
	for _, p := range slices.Concat(lists...) {
		for number := range p.done {
			if count[number]++; count[number] > 1 {
				x.Fatalf("message %d was handled twice", number)
			}
		}
	}
}

// missing returns how many messages have not been handled. One that a process was handling when it was killed
// may have been: it could not tell any more.
func missing(n int, alive, killed []*process) int {
	seen := make(map[uint64]bool)
	for _, p := range alive {
		maps.Copy(seen, p.done)
	}
	for _, p := range killed {
		maps.Copy(seen, p.begun)
	}
	delete(seen, 1) // the first one
	return n - len(seen)
}
