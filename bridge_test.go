package postbus_test

import (
	"context"
	"fmt"
	"net/mail"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/postbus/postbus"
	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/service"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/bridge"
)

// The accounts of the bridge that docs/nats.md describes.
const (
	desk     = "desk@example.org"
	alice    = "alice@example.org"
	ofBridge = "bridge@example.org"
)

// documented is that bridge, at work.
type documented struct {
	*testing.T
	mails *mailserver.Server
	there *strings.Replacer // from the servers that it names to those that there are
	nats  string            // the configuration of the side of NATS
}

func startDocumented(t *testing.T) *documented {
	t.Helper()
	var accounts []mailserver.Account
	for _, address := range []string{desk, alice, ofBridge} {
		accounts = append(accounts, mailserver.Account{Address: address, Password: "secret"})
	}
	mails, err := mailserver.Start(mailserver.Config{Accounts: accounts})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mails.Close() })
	s := startNATSWith(t, &server.Options{})
	t.Setenv("BRIDGE_PASSWORD", "secret")
	text, err := os.ReadFile("docs/nats.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "## A bridge between a mailbox and NATS\n")
	section, _, _ = strings.Cut(section, "\n## ")
	configs := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(section, -1)
	if len(configs) != 2 {
		t.Fatalf("there are %d configurations", len(configs))
	}
	var rules []bridge.Rule
	for _, match := range regexp.MustCompile(`--rule '(.*?)'`).FindAllStringSubmatch(section, -1) {
		rule, err := bridge.ParseRule(match[1])
		if err != nil {
			t.Fatal(err)
		}
		rules = append(rules, rule)
	}
	there := strings.NewReplacer("smtp.example.org", mails.SMTPURL(), "imap.example.org", mails.IMAPURL(), "nats://nats.example.org", s.ClientURL())
	d := &documented{t, mails, there, configs[1][1]}
	b, err := bridge.New(bridge.Side{Name: "mail", Node: d.open(configs[0][1])}, bridge.Side{Name: "nats", Node: d.open(d.nats)}, rules...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close(context.Background()) })
	return d
}

func (d *documented) open(config string) *transport.Node {
	d.Helper()
	node, err := postbus.Open(d.Context(), write(d.T, d.there.Replace(config)))
	if err != nil {
		d.Fatal(err)
	}
	d.Cleanup(func() { node.Close(context.Background()) })
	return node
}

// byHand delivers a mail of Alice's to the bridge.
func (d *documented) byHand(subject, body string) {
	d.Helper()
	raw := "From: " + alice + "\r\nTo: " + ofBridge + "\r\nSubject: " + subject + "\r\nMessage-ID: <" + body + "@alice.example>\r\nContent-Type: text/plain\r\n\r\n" + body + "\r\n"
	if err := d.mails.Deliver(ofBridge, []byte(raw)); err != nil {
		d.Fatal(err)
	}
}

// publish publishes one message.
func (d *documented) publish(node *transport.Node, topic, body string) {
	d.Helper()
	pub, err := pubsub.NewPublisher(node, topic)
	if err != nil {
		d.Fatal(err)
	}
	if err := pub.Publish(d.Context(), []byte(body)); err != nil {
		d.Fatal(err)
	}
}

// TestBridgeOfTheDocumentation: robots on NATS, a program on mail and a person hear and call each other as docs/nats.md says.
func TestBridgeOfTheDocumentation(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	d := startDocumented(t)
	robot := d.open(d.nats)
	atDesk := d.open(fmt.Sprintf("email:\n  user: {url-smtp: smtp.example.org, url-imap: imap.example.org, username: %s, password: secret}\n  recipients: {to: %s}\n", desk, ofBridge))
	heard, err := pubsub.NewSubscription(robot, "/robot/*/stop")
	if err != nil {
		t.Fatal(err)
	}
	planner, err := service.NewServer(robot, "plan")
	if err != nil {
		t.Fatal(err)
	}
	if err := planner.Handle(func(_ context.Context, m *transport.Message) ([]byte, error) {
		return []byte("planned: " + strings.TrimSpace(string(m.Body))), nil
	}); err != nil {
		t.Fatal(err)
	}
	d.publish(atDesk, "/robot/1/stop", "stop")
	d.byHand("/robot/2/stop", "please")
	came := make(map[string]string)
	for range 2 {
		m, err := heard.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		came[m.Name] = strings.TrimSpace(string(m.Body))
	}
	if came["/robot/1/stop"] != "stop" || came["/robot/2/stop"] != "please" {
		t.Errorf("the robot heard %v", came)
	}
	client, err := service.NewClient(atDesk, "plan")
	if err != nil {
		t.Fatal(err)
	}
	if answer, err := client.Call(ctx, []byte("a trip")); err != nil || string(answer.Body) != "planned: a trip" {
		t.Errorf("got %+v, %v", answer, err)
	}
	d.byHand("plan", "holidays")
	d.publish(robot, "/robot/1/state", "idle")
	// Alice gets the reply, and what the robot publishes.
	got, err := d.mails.WaitMessages(ctx, alice, 2)
	if err != nil {
		t.Fatal(err)
	}
	subjects := make(map[string]string)
	for _, raw := range got {
		m, err := mail.ReadMessage(strings.NewReader(string(raw)))
		if err != nil {
			t.Fatal(err)
		}
		subjects[m.Header.Get("Subject")] = string(raw)
	}
	if !strings.Contains(subjects["/robot/1/state"], "idle") || !strings.Contains(subjects["plan"]+subjects["Re: plan"], "planned: holidays") {
		t.Errorf("Alice got %q", got)
	}
}
