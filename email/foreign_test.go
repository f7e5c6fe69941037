package email_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/mail"
	"strings"
	"testing"
	"time"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/service"
	"github.com/postbus/postbus/transport"
)

// office is a server with a robot, which is a node, and a person at the other account.
type office struct {
	testing.TB
	server        *mailserver.Server
	robot, person string // addresses
	carrier       *email.Carrier
	node          *transport.Node
	log           safeBuffer
	read          int // mails that the person has read
}

// newOffice starts one. change may be nil.
func newOffice(t testing.TB, change func(*email.Config)) *office {
	t.Helper()
	server, err := mailserver.Start(mailserver.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	robot, person := server.Accounts()[0], server.Accounts()[1]
	o := &office{TB: t, server: server, robot: robot.Address, person: person.Address}
	config := email.Config{SMTP: server.SMTPURL(), IMAP: server.IMAPURL(), Username: robot.Address, Password: robot.Password, To: []string{person.Address}}
	if change != nil {
		change(&config)
	}
	o.carrier, err = email.Open(t.Context(), config, email.Options{Logger: slog.New(slog.NewTextHandler(&o.log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		t.Fatal(err)
	}
	if o.node, err = transport.NewNode(o.carrier, &transport.Options{Routes: transport.Routes{{Pattern: "/barrier", To: []string{o.robot}}}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.node.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return o
}

// next returns the next mail in the person's inbox, and its Message-ID with brackets.
func (o *office) next() (raw []byte, id string) {
	o.Helper()
	ctx, cancel := context.WithTimeout(o.Context(), timeout)
	defer cancel()
	mails, err := o.server.WaitMessages(ctx, o.person, o.read+1)
	if err != nil {
		o.Fatal(err)
	}
	raw = mails[o.read]
	o.read++
	m, err := mail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		o.Fatal(err)
	}
	return raw, m.Header.Get("Message-ID")
}

// write puts a mail, written with LF, into the robot's inbox. The words $ID, ROBOT and
// PERSON stand for a Message-ID and the addresses.
func (o *office) write(text, id string) {
	o.Helper()
	text = strings.NewReplacer("\n", "\r\n", "$ID", id, "ROBOT", o.robot, "PERSON", o.person).Replace(text)
	if err := o.server.Deliver(o.robot, []byte(text)); err != nil {
		o.Fatal(err)
	}
}

// letter writes an ordinary mail.
func (o *office) letter(subject, text string) {
	o.Helper()
	o.write("From: A Person <PERSON>\nTo: ROBOT\nSubject: "+subject+"\nMessage-ID: <"+subject+"@person.test>\nDate: Sat, 21 Nov 2026 10:00:00 +0100\n\n"+text+"\n", "")
}

// barrier waits until everything in the robot's inbox has been looked at.
func (o *office) barrier() {
	o.Helper()
	sub, err := pubsub.NewSubscription(o.node, "/barrier")
	if err != nil {
		o.Fatal(err)
	}
	defer sub.Close()
	pub, err := pubsub.NewPublisher(o.node, "/barrier")
	if err != nil {
		o.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(o.Context(), timeout)
	defer cancel()
	if err := pub.Publish(ctx, nil); err != nil {
		o.Fatal(err)
	}
	if _, err := sub.Next(ctx); err != nil {
		o.Fatal(err)
	}
}

// skipped checks what has been skipped.
func (o *office) skipped(want map[email.SkipReason]uint64) {
	o.Helper()
	o.barrier()
	got := o.carrier.Skipped()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		o.Errorf("skipped %v, want %v; log:\n%s", got, want, o.log.String())
	}
}

// outcome is that of a call.
type outcome struct {
	answer *transport.Message
	err    error
}

// call begins a call and returns its outcome in a channel, and the ID of its mail.
func (o *office) call(name string) (<-chan outcome, string) {
	o.Helper()
	client, err := service.NewClient(o.node, name)
	if err != nil {
		o.Fatal(err)
	}
	result := make(chan outcome, 1)
	go func() {
		ctx, cancel := context.WithTimeout(o.Context(), timeout)
		defer cancel()
		answer, err := client.Call(ctx, []byte("May I?"))
		client.Close()
		result <- outcome{answer, err}
	}()
	_, id := o.next()
	return result, id
}

const replyHead = "From: A Person <PERSON>\nTo: ROBOT\nSubject: Re: /approve\nMessage-ID: <reply@person.test>\nDate: Sat, 21 Nov 2026 10:00:00 +0100\n"

// TestPersonAnswers: an answer from a mail client is the answer to a call.
func TestPersonAnswers(t *testing.T) {
	for _, test := range []struct{ name, mail, want string }{
		{"plain", replyHead + "In-Reply-To: $ID\nReferences: $ID\n\nYes, you may.\n\nOn Saturday, robot wrote:\n> May I?\n", "Yes, you may."},
		{"references only", strings.Replace(replyHead, "Re:", "AW:", 1) + "References: <other@x> $ID\n\nJa.\n-- \nA. Person\n", "Ja."},
		{"HTML alternative", replyHead + "In-Reply-To: $ID\nMIME-Version: 1.0\nContent-Type: multipart/alternative; boundary=b\n\n--b\nContent-Type: text/plain; charset=\"UTF-8\"\n\nYes\n\nOn Sat, 21 Nov 2026 at 09:00, <ROBOT> wrote:\n\n> May I?\n\n--b\nContent-Type: text/html; charset=\"UTF-8\"\n\n<div dir=\"ltr\">Yes</div><div class=\"gmail_quote\">May I?</div>\n--b--\n", "Yes"},
		{"HTML only", replyHead + "In-Reply-To: $ID\nMIME-Version: 1.0\nContent-Type: text/html; charset=utf-8\n\n<p>Yes &amp; no</p>\n", "Yes & no"},
		{"Latin-1", replyHead + "In-Reply-To: $ID\nMIME-Version: 1.0\nContent-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: quoted-printable\n\nSch=F6n.\n", "Schön."},
		{"flowed", replyHead + "In-Reply-To: $ID\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8; format=flowed\n\nYes, but only \nonce.\n", "Yes, but only once."},
		{"large", replyHead + "In-Reply-To: $ID\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/plain\n\nSee the picture.\n--b\nContent-Type: image/png\nContent-Transfer-Encoding: base64\n\n" +
			strings.Repeat(strings.Repeat("A", 76)+"\n", 3000) + "--b--\n", "See the picture."},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := newOffice(t, nil)
			result, id := o.call("/approve")
			// What comes first is none: it was not a person, or is about something else.
			o.write(strings.Replace(replyHead, "Re:", "Automatic reply:", 1)+"In-Reply-To: $ID\nAuto-Submitted: auto-replied\n\nI am away.\n", id)
			o.write(replyHead+"In-Reply-To: <1.000102030405060708090a0b0c0d0e0f@elsewhere>\n\nNo!\n", id)
			o.write(test.mail, id)
			got := <-result
			if got.err != nil {
				t.Fatalf("%v; log:\n%s", got.err, o.log.String())
			}
			m := got.answer
			if string(m.Body) != test.want || !m.Person || m.Kind != transport.Response || m.Name != "/approve" || m.From != o.person ||
				m.ContentType != "text/plain; charset=utf-8" || m.InReplyTo != transport.ParseID(id) || m.ID.String() != "reply@person.test" ||
				!m.Info.SourceTime.Equal(time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC)) || m.Info.ReceivedTime.IsZero() {
				t.Errorf("answer %q: %+v", m.Body, m)
			}
			o.skipped(map[email.SkipReason]uint64{email.AutomaticMail: 1, email.ForeignMail: 1})
		})
	}
}

const bounceMail = `From: Mail Delivery System <MAILER-DAEMON@mx.test>
To: ROBOT
Subject: Undelivered Mail Returned to Sender
Message-ID: <bounce@mx.test>
Date: Sat, 21 Nov 2026 10:00:00 +0100
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary=b

--b

I'm sorry.
--b
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.test

Final-Recipient: rfc822; nobody@mx.test
Action: ACTION
Status: 5.1.1
Diagnostic-Code: smtp; 550 5.1.1 <nobody@mx.test>: there is no such person

--b
Content-Type: text/rfc822-headers

From: ROBOT
Subject: /approve
Message-ID: $ID
--b--
`

// TestBounceFailsCall: a bounce ends the call that it is about, and no other; a report
// that the mail is late ends none.
func TestBounceFailsCall(t *testing.T) {
	o := newOffice(t, nil)
	result, id := o.call("/approve")
	o.write(strings.ReplaceAll(bounceMail, "ACTION", "delayed"), id)
	o.write(strings.ReplaceAll(bounceMail, "ACTION", "failed"), "<1.000102030405060708090a0b0c0d0e0f@elsewhere>")
	o.write(strings.ReplaceAll(bounceMail, "ACTION", "failed"), "<letter@person.test>")
	o.write(strings.ReplaceAll(bounceMail, "ACTION", "failed"), id)
	got := <-result
	sendErr, ok := errors.AsType[*transport.SendError](got.err)
	if !ok || sendErr.Code != 550 || !errors.Is(got.err, transport.ErrUndeliverable) {
		t.Errorf("error %v", got.err)
	}
	for _, want := range []string{"nobody@mx.test", "5.1.1", "there is no such person"} {
		if got.err == nil || !strings.Contains(got.err.Error(), want) {
			t.Errorf("error %q, want %q in it", got.err, want)
		}
	}
	o.skipped(nil)
	if n := strings.Count(o.log.String(), "level=INFO"); n != 2 || strings.Contains(o.log.String(), "level=WARN") {
		t.Errorf("%d lines on reports about others, want 2:\n%s", n, o.log.String())
	}
}

// TestBounceOfTopicMessage: the publisher that asks for it is told.
func TestBounceOfTopicMessage(t *testing.T) {
	o := newOffice(t, nil)
	type report struct {
		sequence uint64
		err      error
	}
	reports := make(chan report, 10)
	pub, err := pubsub.NewPublisher(o.node, "/chatter", pubsub.OnUndeliverable(func(sequence uint64, err error) { reports <- report{sequence, err} }))
	if err != nil {
		t.Fatal(err)
	}
	defer pub.Close()
	for range 2 {
		if err := pub.Publish(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	o.next()
	_, id := o.next()
	// So large that only its beginning is fetched: the whole mail comes back.
	o.write(strings.NewReplacer("ACTION", "failed", "--b--", "\n"+strings.Repeat(strings.Repeat("x", 70)+"\n", 2000)+"--b--").Replace(bounceMail), id)
	select {
	case got := <-reports:
		if got.sequence != 2 || !errors.Is(got.err, transport.ErrUndeliverable) {
			t.Errorf("message %d: %v", got.sequence, got.err)
		}
	case <-time.After(timeout):
		t.Fatalf("no report; log:\n%s", o.log.String())
	}
}

// TestPeople: those on the list publish and call by writing ordinary mail, and others don't.
func TestPeople(t *testing.T) {
	o := newOffice(t, func(c *email.Config) {
		c.People = []string{"boss@example.org", "@LOCALHOST.test"}
	})
	sub, err := pubsub.NewSubscription(o.node, "/chatter")
	if err != nil {
		t.Fatal(err)
	}
	server, err := service.NewServer(o.node, "/add")
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Handle(func(_ context.Context, m *transport.Message) ([]byte, error) {
		if !m.Person || !m.Deadline.IsZero() || m.From != o.person {
			t.Errorf("request %+v", m)
		}
		var a, b int
		if _, err := fmt.Sscan(string(m.Body), &a, &b); err != nil {
			return nil, fmt.Errorf("two numbers, please: %w", err)
		}
		return fmt.Append(nil, "The sum is ", a+b, "."), nil
	}); err != nil {
		t.Fatal(err)
	}
	o.letter("/chatter", "Hello, everybody!\n\n-- \nPerson")
	o.letter("/add", "3 4")
	o.write("From: A Person <PERSON>\nTo: ROBOT\nSubject: /add\nMessage-ID: </add@2.person.test>\n\nthree\n", "")
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	m, err := sub.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if string(m.Body) != "Hello, everybody!" || !m.Person || m.Kind != transport.TopicMessage || m.Name != "/chatter" || m.From != o.person {
		t.Errorf("message %q: %+v", m.Body, m)
	}
	answers := make(map[string]bool)
	for range 2 {
		raw, _ := o.next()
		letter, err := mail.ReadMessage(bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		var body bytes.Buffer
		_, _ = body.ReadFrom(letter.Body)
		answers[strings.TrimSpace(body.String())] = true
		if !strings.HasPrefix(letter.Header.Get("In-Reply-To"), "</add@") || letter.Header.Get("Auto-Submitted") != "auto-replied" || !strings.HasPrefix(letter.Header.Get("Content-Type"), "text/plain") {
			t.Errorf("the answer can't be read well:\n%s", raw)
		}
	}
	if !answers["The sum is 7."] || len(answers) != 2 || !strings.Contains(fmt.Sprint(answers), "two numbers, please") {
		t.Errorf("answers %v", answers)
	}

	stranger := "From: stranger@localhost.test.example\nTo: ROBOT\nMessage-ID: <1@x>\nSubject: "
	o.write(stranger+"/chatter\n\nPsst!\n", "")
	o.write(stranger+"/add\n\n1 2\n", "")
	o.letter("chatter?", "What is it?")
	o.letter("Fwd: /chatter", "Look!")
	o.write("From: PERSON\nSubject: /add\n\n1 2\n", "") // can't be answered
	o.write("From: PERSON\nSubject: /chatter\nMessage-ID: <2@x>\nPrecedence: list\n\nTo all of us\n", "")
	// It may be the answer to a call of another node with the same mailbox.
	o.write("From: PERSON\nSubject: Re: /add\nMessage-ID: <3@x>\nIn-Reply-To: <1.000102030405060708090a0b0c0d0e0f@elsewhere>\n\n1 2\n", "")
	o.skipped(map[email.SkipReason]uint64{email.ForeignMail: 6, email.AutomaticMail: 1})
	if _, ok := sub.TryNext(); ok {
		t.Error("a message came that should not")
	}
}

// TestPersonAnswersTopicMessage: who answers a topic message says something on the topic.
func TestPersonAnswersTopicMessage(t *testing.T) {
	o := newOffice(t, func(c *email.Config) { c.People = []string{"peer@localhost.test"} })
	sub, err := pubsub.NewSubscription(o.node, "/chatter")
	if err != nil {
		t.Fatal(err)
	}
	pub, err := pubsub.NewPublisher(o.node, "/chatter")
	if err != nil {
		t.Fatal(err)
	}
	if err := pub.Publish(t.Context(), []byte("Anybody there?")); err != nil {
		t.Fatal(err)
	}
	_, id := o.next()
	o.write(strings.Replace(replyHead, "/approve", "/chatter", 1)+"In-Reply-To: $ID\nReferences: $ID\n\nI am.\n\n> Anybody there?\n", id)
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	m, err := sub.Next(ctx)
	if err != nil || string(m.Body) != "I am." || !m.Person {
		t.Errorf("message %+v, %v", m, err)
	}
}

// TestNobodyMayByDefault: without a list nobody publishes or calls by ordinary mail.
func TestNobodyMayByDefault(t *testing.T) {
	o := newOffice(t, nil)
	sub, err := pubsub.NewSubscription(o.node, "/chatter")
	if err != nil {
		t.Fatal(err)
	}
	o.letter("/chatter", "Hello!")
	o.skipped(map[email.SkipReason]uint64{email.ForeignMail: 1})
	if _, ok := sub.TryNext(); ok {
		t.Error("a message came")
	}
}
