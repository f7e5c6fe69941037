package mailserver_test

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postbus/postbus/email/mailserver"
)

// nested returns a multipart of that depth.
func nested(depth int) string {
	var b strings.Builder
	for i := range depth {
		fmt.Fprintf(&b, "Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n", i, i)
	}
	return b.String() + "\r\nthe core\r\n"
}

// TestHostileMail delivers mails that break parsers, and asks for everything
// there is to ask. The connection must survive and the bytes must be exact.
func TestHostileMail(t *testing.T) {
	server := start(t, mailserver.Config{})
	mails := []string{
		"",
		"\r\n",
		"\n\n",
		"\x00",
		"no header at all",
		": no name\r\nx y: blank in the name\r\nSubject: fine\r\n\r\nbody",
		"Subject: fine\r\n broken\x00\xff\r\nFrom: <<<>>>,,,;:@\r\nDate: never\r\nMessage-ID: <<>\r\n\r\n",
		"Content-Type: multipart/mixed\r\n\r\nno boundary",
		"Content-Type: multipart/mixed; boundary=\"\"\r\n\r\n----\r\n",
		"Content-Type: multipart/mixed; boundary=b\r\n\r\nno part",
		"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b",
		"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b--",
		"Content-Type: multipart\r\n\r\n",
		"Content-Type: /\r\n\r\n",
		"Content-Type: \x80; =;;\r\nContent-Disposition: ;;=\r\nContent-Language: ,,\r\nContent-Id: \"\r\n\r\n",
		"Content-Type: message/rfc822\r\n\r\nContent-Type: message/rfc822\r\n\r\nx",
		strings.Repeat("Content-Type: message/rfc822\r\n\r\n", 1000),
		"Content-Transfer-Encoding: base64\r\n\r\n!!!",
		"Content-Transfer-Encoding: nonsense\r\nContent-Type: text/plain; charset=none\r\n\r\n=",
		"Subject: =?utf-8?b?!!!?= =?none?q?x?=\r\n\r\n",
		nested(5000),
		strings.Repeat("X: y\r\n", 50_000) + "\r\n",
		"X: " + strings.Repeat("y", 1_000_000),
	}
	for _, m := range mails {
		check(t, server.Deliver(robot, []byte(m)))
	}
	c, _ := openInbox(t, server, robot)
	for i, want := range mails {
		uid := imap.UID(i + 1)
		msgs, err := c.Fetch(imap.UIDSetNum(uid), &imap.FetchOptions{
			UID: true, Flags: true, InternalDate: true, RFC822Size: true, Envelope: true,
			BodyStructure: &imap.FetchItemBodyStructure{Extended: true},
			BodySection: []*imap.FetchItemBodySection{
				{Peek: true},
				{Peek: true, Specifier: imap.PartSpecifierHeader},
				{Peek: true, Specifier: imap.PartSpecifierText},
				{Peek: true, Specifier: imap.PartSpecifierHeader, HeaderFields: []string{"Subject"}},
				{Peek: true, Part: []int{1}},
				{Peek: true, Part: []int{1, 1, 1}, Specifier: imap.PartSpecifierMIME},
			},
			BinarySection:     []*imap.FetchItemBinarySection{{Part: []int{1}, Peek: true}},
			BinarySectionSize: []*imap.FetchItemBinarySectionSize{{Part: []int{1}}},
		}).Collect()
		if err != nil || len(msgs) != 1 {
			t.Fatalf("%.50q: %d messages, %v", want, len(msgs), err)
		}
		sections := msgs[0].BodySection
		if got := string(sections[0].Bytes); got != want {
			t.Errorf("%.50q: got %.100q", want, got)
		}
		if got := string(sections[1].Bytes) + string(sections[2].Bytes); got != want {
			t.Errorf("%.50q: header and text are %.100q", want, got)
		}
		_, err = c.UIDSearch(&imap.SearchCriteria{
			UID: []imap.UIDSet{imap.UIDSetNum(uid)}, Text: []string{"nowhere"}, SentSince: time.Unix(0, 0),
		}, nil).Wait()
		check(t, err)
		_, err = c.UIDSearch(&imap.SearchCriteria{UID: []imap.UIDSet{imap.UIDSetNum(uid)}, Body: []string{"core"}}, nil).Wait()
		check(t, err)
	}
}

// TestHostileIMAP sends what no client should.
func TestHostileIMAP(t *testing.T) {
	server := start(t, mailserver.Config{})
	check(t, server.Deliver(robot, []byte(hello)))
	for _, command := range []string{
		"UID FETCH 1 BODY.PEEK[1]<1.9223372036854775807>",
		"UID FETCH 1 BODY.PEEK[]<9223372036854775807.9223372036854775807>",
		"UID FETCH 1 BODY.PEEK[" + strings.Repeat("1.", 10_000) + "1]",
		"UID FETCH 0 FLAGS",
		"UID FETCH * (FLAGS",
		"UID FETCH $ FLAGS",
		"FETCH 4294967295 FLAGS",
		"FETCH 1:4294967295 FLAGS",
		`STORE 1 FLAGS (\Recent)`,
		`STORE 1 FLAGS (\*)`,
		`STORE 1 FLAGS (\Nonsense)`,
		`STORE 1 +FLAGS (` + strings.Repeat("x", 20_000) + `)`,
		"SEARCH " + strings.Repeat("NOT ", 10_000) + "ALL",
		"SEARCH CHARSET NONE ALL",
		"UID COPY 1 \"\"",
		`LIST "" "` + strings.Repeat("*", 1000) + `"`,
		`LIST "" ""`,
		`CREATE ""`,
		`CREATE "` + strings.Repeat("a/", 5000) + `"`,
		`RENAME INBOX INBOX`,
		"STATUS INBOX (MESSAGES RECENT UIDNEXT UIDVALIDITY UNSEEN DELETED SIZE APPENDLIMIT DELETED-STORAGE)",
		"UID EXPUNGE 1:*",
		"NONSENSE",
		"IDLE\r\nnot DONE",
	} {
		c := dialRaw(t, server.IMAPAddr())
		c.imap("LOGIN " + robot + " robot")
		c.imap("SELECT INBOX")
		c.imap(command) // whatever the answer, there is one
		got := c.imap("UID FETCH 1 (RFC822.SIZE)")
		if len(got) < 2 {
			t.Errorf("%.50s: %q", command, got)
		}
		c.Conn.Close()
	}
}

// TestSMTPExtensions speaks what go-smtp's client does not.
func TestSMTPExtensions(t *testing.T) {
	server := start(t, mailserver.Config{})
	c := dialRaw(t, server.SMTPAddr())
	c.send("EHLO [127.0.0.1]\r\n")
	var offered strings.Builder
	for {
		line := c.line()
		offered.WriteString(line)
		if line[3] == ' ' {
			break
		}
	}
	for _, want := range []string{"PIPELINING", "8BITMIME", "CHUNKING", "SMTPUTF8", "SIZE 67108864", "ENHANCEDSTATUSCODES", "AUTH PLAIN LOGIN"} {
		if !strings.Contains(offered.String(), want) {
			t.Errorf("no %s in %s", want, offered.String())
		}
	}
	// AUTH LOGIN without an initial response.
	for _, step := range [][2]string{{"AUTH LOGIN", "334 VXNlcm5hbWU6"}, {"cm9ib3RAbG9jYWxob3N0LnRlc3Q=", "334 UGFzc3dvcmQ6"}, {"cm9ib3Q=", "235 "}} {
		if got := c.smtp(step[0]); !strings.HasPrefix(got, step[1]) {
			t.Fatalf("%s: %q", step[0], got)
		}
	}
	// PIPELINING (RFC 2920): everything up to DATA at once, then the mail
	// together with the next transaction, by BDAT (RFC 3030).
	c.send("MAIL FROM:<" + robot + ">\r\nRCPT TO:<" + peer + ">\r\nRCPT TO:<nobody@x>\r\nDATA\r\n")
	for _, want := range []string{"250", "250", "550 5.1.1", "354"} {
		if got := c.line(); !strings.HasPrefix(got, want) {
			t.Fatalf("%q, want %s", got, want)
		}
	}
	second := "Subject: two\r\n\r\n.\r\nbare\nnul\x00\r\n"
	c.send(hello + ".\r\nMAIL FROM:<" + robot + "> BODY=8BITMIME SMTPUTF8 SIZE=100\r\nRCPT TO:<" + peer + ">\r\n")
	c.send(fmt.Sprintf("BDAT 5\r\n%sBDAT %d LAST\r\n%s", second[:5], len(second)-5, second[5:]))
	for _, want := range []string{"250 2.0.0 OK", "250", "250", "250 2.0.0 Continue", "250 2.0.0 OK"} {
		if got := c.line(); !strings.HasPrefix(got, want) {
			t.Fatalf("%q, want %s", got, want)
		}
	}
	mails, err := server.Messages(peer)
	check(t, err)
	if len(mails) != 2 || !strings.HasSuffix(string(mails[0]), hello) || !strings.HasSuffix(string(mails[1]), second) {
		t.Errorf("%q", mails)
	}
	if !strings.Contains(string(mails[1]), "with UTF8SMTPA id") {
		t.Errorf("%q", mails[1])
	}
}

// TestHostileSMTP: transactions that are broken off, in ways that make other
// goroutines meet, and lines without end.
func TestHostileSMTP(t *testing.T) {
	server := start(t, mailserver.Config{})
	dial := func() *raw {
		c := dialRaw(t, server.SMTPAddr())
		c.smtp("EHLO x(y)z\r\n")
		c.line() // the reply to the empty line
		if got := c.smtp("AUTH PLAIN AHJvYm90QGxvY2FsaG9zdC50ZXN0AHJvYm90"); !strings.HasPrefix(got, "235") {
			t.Fatal(got)
		}
		return c
	}
	mail, rcpt := "MAIL FROM:<"+robot+">", "RCPT TO:<"+peer+">"
	// Each on its own connection: go-smtp itself mixes up the goroutines of two
	// BDAT transactions on one if the first was broken off.
	for range 10 {
		for _, broken := range [][]string{
			{"BDAT 0", "RSET"}, // nothing has been read yet
			{"BDAT 3\r\nabc", "RSET"},
			{"BDAT 3\r\nabc", "MAIL FROM:<>", "DATA", "RSET"},
			{"BDAT 99999999999", "BDAT -1", "BDAT x", "RSET", "BDAT 2\r\nab"},
			{"BDAT 3\r\nabc"},
		} {
			c := dial()
			for _, command := range append([]string{mail, rcpt}, broken...) {
				c.smtp(command)
			}
			c.Conn.Close()
		}
	}
	// A last chunk that is cut off is no end of a mail, though go-smtp takes it for one.
	for n := range uint64(10) {
		c := dial()
		c.send(mail + "\r\n" + rcpt + "\r\nBDAT 100 LAST\r\nSubject: cut off\r\n\r\n")
		check(t, c.Conn.(*net.TCPConn).CloseWrite())
		for _, want := range []string{"250", "250", "421 4.4.2"} {
			if got := c.line(); !strings.HasPrefix(got, want) {
				t.Fatalf("a mail that is cut off: %q, want %s", got, want)
			}
		}
		c.Conn.Close()
		if got := server.Stats().Rejected; got < n+1 {
			t.Errorf("%d mails rejected, want %d", got, n+1)
		}
	}
	c := dial()
	if got := c.smtp(mail); !strings.HasPrefix(got, "250") {
		t.Error(got)
	}
	if got := c.smtp(mail); !strings.HasPrefix(got, "503 5.5.1") {
		t.Error("nested MAIL: ", got)
	}
	c.smtp(rcpt)
	c.smtp("DATA")
	c.send("Subject: cut off\r\n\r\n")
	c.Conn.Close()

	// Many recipients.
	c = dial()
	c.smtp(mail)
	for i := range 1001 {
		if got := c.smtp(rcpt); strings.HasPrefix(got, "250") != (i < 1000) {
			t.Fatalf("recipient %d: %s", i, got)
		}
	}
	c.Conn.Close()

	// A line without end makes the server hang up.
	conn, err := net.Dial("tcp", server.SMTPAddr())
	check(t, err)
	defer conn.Close()
	check(t, conn.SetDeadline(time.Now().Add(patience)))
	go func() {
		for err := error(nil); err == nil; _, err = conn.Write(make([]byte, 10_000)) {
		}
	}()
	for r := bufio.NewReader(conn); err == nil; _, err = r.ReadByte() {
	}
	if mails, _ := server.Messages(peer); len(mails) != 0 {
		t.Errorf("%q", mails)
	}
}
