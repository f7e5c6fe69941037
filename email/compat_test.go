package email_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/email/wire"
	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/service"
	"github.com/postbus/postbus/transport"
)

// rmwField reads a mail as rmw_email does.
var rmwField = regexp.MustCompile(`([a-zA-Z\-]+): (.*)\r`)

// rmwHeader returns the fields and the body that rmw_email finds in a mail. It fails
// without those that rmw_email can't do without.
func rmwHeader(t testing.TB, raw []byte) (fields map[string]string, body string) {
	t.Helper()
	fields = make(map[string]string)
	for _, m := range rmwField.FindAllSubmatch(raw, -1) {
		if _, known := fields[string(m[1])]; !known {
			fields[string(m[1])] = string(m[2])
		}
	}
	for _, name := range []string{"From", "In-Reply-To", "Message-ID", "Subject", "To", "Cc", "Bcc"} {
		if _, ok := fields[name]; !ok {
			t.Errorf("there is no field %s:\n%s", name, raw)
		}
	}
	_, body, _ = strings.Cut(string(raw), "\r\n\r\n")
	return fields, body
}

func isRMW(raw []byte) bool { return strings.Contains(string(raw), "\r\nBcc: ") }

// TestRMWTopic: only what is covered is written for rmw_email, and postbus reads it all.
func TestRMWTopic(t *testing.T) {
	route := func(pattern string) transport.Route {
		return transport.Route{Pattern: pattern, To: []string{"peer@localhost.test"}}
	}
	for _, test := range []struct {
		name   string
		change func(*email.Config)
		names  map[string]bool
	}{
		{"off", func(c *email.Config) {}, map[string]bool{"/a": false}},
		{"node", func(c *email.Config) { c.RMWEmail = true; c.Routes = transport.Routes{route("/a")} }, map[string]bool{"/a": true, "/b": true}},
		{"route", func(c *email.Config) {
			c.Routes = transport.Routes{route("/a/*"), route("/a/>"), route(">")}
			c.RMWEmailRoutes = []string{"/a/>"}
		}, map[string]bool{"/a/b": false, "/a/b/c": true, "/b": false}},
		{"last route", func(c *email.Config) {
			c.Routes = transport.Routes{route("/a/*"), route(">")}
			c.RMWEmailRoutes = []string{">"}
		}, map[string]bool{"/a/b": false, "/b": true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := newOffice(t, test.change)
			for name, want := range test.names {
				pub, err := pubsub.NewPublisher(o.node, name)
				if err != nil {
					t.Fatal(err)
				}
				if err := pub.Publish(t.Context(), []byte("grüß dich\n")); err != nil {
					t.Fatal(err)
				}
				raw, _ := o.next()
				if isRMW(raw) != want {
					t.Errorf("%s: for rmw_email: %v, want %v", name, !want, want)
				}
				if m, err := wire.Decode(raw); err != nil || m.Name != name || string(m.Body) != "grüß dich\n" || m.Info.Sequence != 1 {
					t.Errorf("message %+v, %v", m, err)
				}
				if !want {
					continue
				}
				fields, body := rmwHeader(t, raw)
				if fields["Subject"] != name || fields["Publisher-GID"] != pub.GID().Short().String() || fields["In-Reply-To"] != "" || body != "grüß dich\r\n" {
					t.Errorf("rmw_email reads %q, %q", fields, body)
				}
			}
		})
	}
}

// TestRMWClient: a client of rmw_email is answered in its own form, errors too, also by
// a node that is not set to it, and whatever follows.
func TestRMWClient(t *testing.T) {
	o := newOffice(t, nil)
	server, err := service.NewServer(o.node, "/add")
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Handle(func(_ context.Context, m *transport.Message) ([]byte, error) {
		if string(m.Body) != "{a: 1, b: 2}" {
			return nil, errors.New("no numbers")
		}
		return []byte("{sum: 3}"), nil
	}); err != nil {
		t.Fatal(err)
	}
	for sequence, exchange := range []struct{ request, response string }{{"{a: 1, b: 2}", "{sum: 3}"}, {"{}", "no numbers"}} {
		id := fmt.Sprintf("<%d@rmw.test>", sequence)
		o.write(fmt.Sprintf("Client-GID: 12345\nPublisher-GID: 12346\nRequest-Sequence-Number: %d\nSource-Timestamp: 1\n", sequence)+
			"In-Reply-To: \nReferences: \nTo: ROBOT\nCc: \nBcc: \nSubject: /add\nFrom: PERSON\nMessage-ID: "+id+"\n\n"+exchange.request+"\n", "")
		raw, _ := o.next()
		fields, body := rmwHeader(t, raw)
		if fields["Client-GID"] != "12345" || fields["Request-Sequence-Number"] != fmt.Sprint(sequence) || fields["In-Reply-To"] != id ||
			fields["References"] != id || fields["To"] != o.person || strings.TrimRight(body, "\r\n") != exchange.response {
			t.Errorf("rmw_email reads %q, %q", fields, body)
		}
	}
}

// TestRMWServer: a call to a server of rmw_email, and its answer.
func TestRMWServer(t *testing.T) {
	o := newOffice(t, func(c *email.Config) { c.RMWEmail = true })
	for range 2 {
		client, err := service.NewClient(o.node, "/add")
		if err != nil {
			t.Fatal(err)
		}
		for sequence := range 3 {
			result := make(chan outcome, 1)
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), timeout)
				defer cancel()
				answer, err := client.Call(ctx, []byte("{a: 1, b: 2}"))
				result <- outcome{answer, err}
			}()
			raw, _ := o.next()
			fields, body := rmwHeader(t, raw)
			if fields["Request-Sequence-Number"] != fmt.Sprint(sequence) || fields["Client-GID"] != client.GID().Short().String() ||
				fields["From"] != o.robot || strings.TrimRight(body, "\r\n") != "{a: 1, b: 2}" {
				t.Errorf("rmw_email reads %q, %q", fields, body)
			}
			o.write(fmt.Sprintf("Client-GID: %s\nRequest-Sequence-Number: %s\nSource-Timestamp: 1\nIn-Reply-To: %s\nReferences: %[3]s\nTo: %s\nCc: \nBcc: \nSubject: /add\nFrom: PERSON\nMessage-ID: <%d@rmw.test>\n\n{sum: %[5]d}\n",
				fields["Client-GID"], fields["Request-Sequence-Number"], fields["Message-ID"], fields["From"], sequence), "")
			if got := <-result; got.err != nil || strings.TrimSpace(string(got.answer.Body)) != fmt.Sprintf("{sum: %d}", sequence) {
				t.Errorf("answer %+v, %v; log:\n%s", got.answer, got.err, o.log.String())
			}
		}
	}
}

// TestRMWPerson: a person who calls a service of such a node gets an answer to be read
// in a mail client.
func TestRMWPerson(t *testing.T) {
	o := newOffice(t, func(c *email.Config) { c.RMWEmail, c.People = true, []string{"@localhost.test"} })
	server, err := service.NewServer(o.node, "/add")
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Handle(func(context.Context, *transport.Message) ([]byte, error) { return []byte("three"), nil }); err != nil {
		t.Fatal(err)
	}
	o.letter("/add", "1 2")
	if raw, _ := o.next(); isRMW(raw) || !strings.Contains(string(raw), "\r\nMIME-Version: 1.0\r\n") || !strings.Contains(string(raw), "\r\nthree") {
		t.Errorf("the answer is\n%s", raw)
	}
}

// TestRMWRefused: what rmw_email can't read is not sent, and the error says so.
func TestRMWRefused(t *testing.T) {
	o := newOffice(t, func(c *email.Config) { c.RMWEmail = true })
	pub, err := pubsub.NewPublisher(o.node, "/chatter")
	if err != nil {
		t.Fatal(err)
	}
	for body, want := range map[string]error{"a\x00b": transport.ErrNotSupported, strings.Repeat("long\n", 10_000): transport.ErrTooLarge} {
		err := pub.Publish(t.Context(), []byte(body))
		if sendErr, ok := errors.AsType[*transport.SendError](err); !ok || sendErr.Outcome != transport.Permanent || !errors.Is(err, want) {
			t.Errorf("error %v", err)
		}
	}
}
