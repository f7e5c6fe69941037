package main

import (
	"bytes"
	"context"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/transport"
)

func TestDemo(t *testing.T) {
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"demo"}, nil, &stdout, &stderr)
	if code != exitDone || stderr.Len() > 0 {
		t.Errorf("exit code %d, stderr:\n%s", code, stderr.String())
	}
	checkDemo(t, stdout.String())
	// One mail for each message, request, response and error answer.
	if !strings.Contains(stdout.String(), "\n   30 mails in ") {
		t.Error("the mail server has not taken 30 mails")
	}
	for _, line := range strings.Split(stdout.String(), "\n") {
		if len(line) > 100 {
			t.Errorf("a line has %d characters:\n%s", len(line), line)
		}
	}
}

// checkDemo checks the output of a demo that went well.
func checkDemo(t *testing.T, out string) {
	t.Helper()
	at := 0
	for _, pattern := range []string{
		`(?m)^2\. A topic$`,
		`(?m)^ +\d+\.\d{3} s   talker     publishes  1   Hello, this is message 1\.$`,
		`(?m)^ +\d+\.\d{3} s   listener   receives  12   Hello, this is message 12\. +\d+\.\d ms$`,
		`(?m)^3\. A service$`,
		`(?m)client     asks      40 \+ 2$`,
		`(?m)server     answers   42$`,
		`(?m)client     gets      42 +\d+\.\d ms$`,
		`(?m)client     gets      error 422: the sum does not fit into 64 bits +\d+\.\d ms$`,
		`(?m)^4\. A wait set$`,
		`(?m)wakes up  \[x\] guard condition  \[ \] subscription  \[ \] server  \[ \] client$`,
		`(?m)wakes up  \[ \] guard condition  \[x\] subscription  \[ \] server  \[ \] client$`,
		`(?m)wakes up  \[ \] guard condition  \[ \] subscription  \[x\] server  \[ \] client$`,
		`(?m)wakes up  \[ \] guard condition  \[ \] subscription  \[ \] server  \[x\] client$`,
		`(?m)wakes up  \[x\] guard condition  \[x\] subscription  \[x\] server  \[x\] client$`,
		`(?m)^5\. The e-mails$`,
		`(?m)^   Subject: /chatter$`,
		`(?m)^   Hello, this is message \d+\.$`,
		`(?m)^   Subject: /add_two_ints$`,
		`(?m)^   \{"a":2,"b":3\}$`,
		`(?m)^   In-Reply-To: <1\.[0-9a-f]{32}@.*>$`,
		`(?m)^   \{"sum":5\}$`,
		`(?m)^6\. Summary$`,
		`(?m)^   messages on /chatter +14 +14 +0 +\d+\.\d ms$`,
		`(?m)^   calls of /add_two_ints +6 +6 +0 +\d+\.\d ms$`,
		`(?m)^   calls of /battery +2 +2 +0 +\d+\.\d ms$`,
	} {
		found := regexp.MustCompile(pattern).FindStringIndex(out[at:])
		if found == nil {
			t.Fatalf("there is no %s in the rest of the output:\n%s", pattern, out)
		}
		at += found[1]
	}
}

func TestDemoThatIsInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stdout, stderr := newWatched(), newWatched()
	code := make(chan int, 1)
	go func() { code <- run(ctx, []string{"demo"}, nil, stdout, stderr) }()
	stdout.await(t, "publishes  3")
	cancel()
	if got := <-code; got != exitFailed {
		t.Errorf("exit code %d", got)
	}
	stdout.await(t, "Summary")
	stderr.await(t, "interrupted")
}

// TestDemoThatLosesMessages has messages counted that never arrive.
func TestDemoThatLosesMessages(t *testing.T) {
	var out bytes.Buffer
	d := newDemo(&app{stdout: &out}, localPatience, "by e-mail")
	d.topic.addSent()
	d.topic.addSent()
	d.topic.addReceived(1)
	err := d.summary()
	if err == nil || err.Error() != "messages on /chatter: 1 of 2 lost" || exitCode(err) != exitFailed {
		t.Errorf("%v", err)
	}
	if !regexp.MustCompile(`(?m)^   messages on /chatter +2 +1 +1 `).Match(out.Bytes()) {
		t.Errorf("%s", out.String())
	}
}

func TestDemoShowsTheMailsThatBelongTogether(t *testing.T) {
	talker, client, other := transport.NewGID(), transport.NewGID(), transport.NewGID()
	message := func(kind transport.Kind, sender transport.GID, sequence uint64, inReplyTo transport.ID) transport.Message {
		return transport.Message{
			Kind: kind, Name: "/a", InReplyTo: inReplyTo,
			ID: transport.NewID(sender, sequence, "x"), Info: transport.Info{PublisherGID: sender, Sequence: sequence},
		}
	}
	var none transport.ID
	var r recorder
	r.watch(talker)
	r.watch(client)
	for _, mail := range []struct {
		raw string
		m   transport.Message
	}{
		{"answer to somebody else", message(transport.Response, other, 1, transport.NewID(other, 1, "x"))},
		{"somebody else's message", message(transport.TopicMessage, other, 1, none)},
		{"message", message(transport.TopicMessage, talker, 1, none)},
		{"second message", message(transport.TopicMessage, talker, 2, none)},
		{"somebody else's request", message(transport.Request, other, 1, none)},
		{"request", message(transport.Request, client, 1, none)},
		{"answer to somebody else", message(transport.Response, other, 2, transport.NewID(other, 1, "x"))},
		{"answer", message(transport.Response, other, 3, transport.NewID(client, 1, "x"))},
	} {
		raw := []byte(mail.raw)
		r.record(raw, &mail.m)
		clear(raw) // it was only lent
	}
	if got := []string{string(r.message), string(r.request), string(r.answer)}; strings.Join(got, ",") != "message,request,answer" {
		t.Errorf("%q", got)
	}
}

func TestIndentedMailIsHarmless(t *testing.T) {
	got := indented([]byte("Subject: \x1b]0;x\a\r\n\tfolded\r\n\r\n\xff\r\n\r\n"))
	if want := "   Subject: ?]0;x?\n   \tfolded\n\n   \uFFFD"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	long := indented(bytes.Repeat([]byte("x\n"), 1000))
	if lines := strings.Count(long, "\n") + 1; lines != maxShownLines+1 || !strings.HasSuffix(long, "...") {
		t.Errorf("%d lines", lines)
	}
}

func TestAdd(t *testing.T) {
	for _, test := range []struct {
		a, b int64
		fits bool
	}{
		{2, 3, true}, {-7, 7, true}, {0, 0, true}, {math.MinInt64, 0, true}, {math.MaxInt64, math.MinInt64, true},
		{math.MaxInt64, 1, false}, {math.MinInt64, -1, false}, {math.MinInt64, math.MinInt64, false},
	} {
		got, err := add(addends{test.a, test.b})
		if (err == nil) != test.fits || test.fits && got.Sum != test.a+test.b {
			t.Errorf("%d + %d: %v, %v", test.a, test.b, got, err)
		}
	}
}

// TestMailserverPrintsAConfiguration reads what a user would copy into email.yml.
func TestMailserverPrintsAConfiguration(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stdout, stderr := newWatched(), newWatched()
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, []string{"mailserver", "--smtp=127.0.0.1:0", "--imap=127.0.0.1:0", "--tls", "--user", `o'neil@localhost.test:a: "b" #c`}, nil, stdout, stderr)
	}()
	stdout.await(t, "postbus topic pub")
	cancel()
	if got := <-code; got != exitDone {
		t.Errorf("exit code %d: %s", got, stderr.buffer.String())
	}
	out := stdout.buffer.String()
	_, rest, _ := strings.Cut(out, "save it as email.yml:\n\n")
	config, rest, _ := strings.Cut(rest, "\n\nand this")
	_, rest, _ = strings.Cut(rest, "as ca.pem beside it:\n\n")
	ca, _, _ := strings.Cut(rest, "\n\n")
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "ca.pem"), []byte(ca), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := email.ParseConfig([]byte(config), filepath.Join(folder, "email.yml"))
	if err != nil {
		t.Fatalf("%v in:\n%s", err, out)
	}
	if c.Username != "o'neil@localhost.test" || c.Password != `a: "b" #c` || len(c.To) != 1 || c.To[0] != c.Username || len(c.CA) == 0 {
		t.Errorf("%+v", c)
	}
}

func TestReachable(t *testing.T) {
	for url, want := range map[string]string{
		"smtps://0.0.0.0:1025":            "smtps://localhost:1025",
		"imaps://[::]:1143":               "imaps://localhost:1143",
		"smtp+insecure://127.0.0.1:1025":  "smtp+insecure://127.0.0.1:1025",
		"imaps://mail.factory.test:10993": "imaps://mail.factory.test:10993",
	} {
		if got := reachable(url); got != want {
			t.Errorf("%s: %s, want %s", url, got, want)
		}
	}
}
