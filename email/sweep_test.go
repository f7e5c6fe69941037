package email

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// sweepTest is what the server is asked to do with mail that is skipped.
type sweepTest struct {
	name         string
	caps         string
	flags        string
	flag, folder string
	// reply returns the reply to a command, counted from 1 over all connections, or ""
	// for OK; "close" closes the connection.
	reply func(n int, command string) string
	want  []string // commands
	warn  string   // in the log, once
}

func TestSweep(t *testing.T) {
	t.Parallel()
	always := func(prefix, reply string) func(int, string) string {
		return func(_ int, command string) string {
			if strings.HasPrefix(command, prefix) {
				return reply
			}
			return ""
		}
	}
	once := func(prefix, reply string) func(int, string) string {
		return func(n int, command string) string {
			if n > 1 {
				return ""
			}
			return always(prefix, reply)(n, command)
		}
	}
	const all = "IMAP4rev1 IDLE MOVE UIDPLUS"
	for _, test := range []sweepTest{
		{name: "flag", flag: "$S", want: []string{"UID STORE 2,4:5 +FLAGS.SILENT ($S)", "UID STORE 7 +FLAGS.SILENT ($S)"}},
		{name: "flag that is permitted", flags: `\Seen $s`, flag: "$S", want: []string{"UID STORE 2,4:5 +FLAGS.SILENT ($S)", "UID STORE 7 +FLAGS.SILENT ($S)"}},
		{name: "any flag", flags: `\Seen \*`, flag: "$S", want: []string{"UID STORE 2,4:5 +FLAGS.SILENT ($S)", "UID STORE 7 +FLAGS.SILENT ($S)"}},
		{name: "no such flag", flags: `\Seen $other`, flag: "$S", warn: "the server keeps no such keyword"},
		{name: "flag refused", flag: "$S", reply: always("UID STORE", "NO not you"),
			want: []string{"UID STORE 2,4:5 +FLAGS.SILENT ($S)", "UID STORE 7 +FLAGS.SILENT ($S)"}, warn: "not you"},
		{name: "flag refused once", flag: "$S", reply: once("UID STORE", "BAD what"),
			want: []string{"UID STORE 2,4:5 +FLAGS.SILENT ($S)", "UID STORE 7 +FLAGS.SILENT ($S)"}, warn: "what"},
		{name: "move", caps: all, folder: "F", want: []string{"UID MOVE 2,4:5 \"F\"", "UID MOVE 7 \"F\""}},
		{name: "folder missing", caps: all, folder: "F", reply: once("UID MOVE", "NO [TRYCREATE] no such folder"),
			want: []string{"UID MOVE 2,4:5 \"F\"", "CREATE \"F\"", "UID MOVE 2,4:5 \"F\"", "UID MOVE 7 \"F\""}},
		{name: "folder just created", caps: all, folder: "F", reply: func(n int, command string) string {
			return once("UID MOVE", "NO [TRYCREATE] no such folder")(n, command) + always("CREATE", "NO [ALREADYEXISTS] it is there")(n, command)
		}, want: []string{"UID MOVE 2,4:5 \"F\"", "CREATE \"F\"", "UID MOVE 2,4:5 \"F\"", "UID MOVE 7 \"F\""}},
		{name: "folder can't be created", caps: all, folder: "F", reply: func(n int, command string) string {
			return always("UID MOVE", "NO [TRYCREATE] no such folder")(n, command) + always("CREATE", "NO not here")(n, command)
		}, want: []string{"UID MOVE 2,4:5 \"F\"", "CREATE \"F\"", "UID MOVE 2,4:5 \"F\"", "UID MOVE 7 \"F\"", "CREATE \"F\"", "UID MOVE 7 \"F\""}, warn: "not here"},
		{name: "without MOVE", caps: "IMAP4rev1 IDLE UIDPLUS", folder: "F", want: []string{
			"UID COPY 2,4:5 \"F\"", `UID STORE 2,4:5 +FLAGS.SILENT (\Deleted)`, "UID EXPUNGE 2,4:5",
			"UID COPY 7 \"F\"", `UID STORE 7 +FLAGS.SILENT (\Deleted)`, "UID EXPUNGE 7"}},
		{name: "without UIDPLUS", folder: "F", want: []string{
			"UID COPY 2,4:5 \"F\"", `UID STORE 2,4:5 +FLAGS.SILENT (\Deleted)`,
			"UID COPY 7 \"F\"", `UID STORE 7 +FLAGS.SILENT (\Deleted)`}},
		{name: "not copied, not deleted", folder: "F", reply: always("UID COPY", "NO [OVERQUOTA] full"),
			want: []string{"UID COPY 2,4:5 \"F\"", "UID COPY 7 \"F\""}, warn: "full"},
		{name: "connection lost", caps: all, folder: "F", reply: once("UID MOVE", "close"),
			want: []string{"UID MOVE 2,4:5 \"F\"", "UID MOVE 2,4:5 \"F\"", "UID MOVE 7 \"F\""}},
		{name: "connection lost each time", caps: all, folder: "F", reply: always("UID MOVE", "close"),
			want: []string{"UID MOVE 2,4:5 \"F\"", "UID MOVE 2,4:5 \"F\"", "UID MOVE 2,4:5 \"F\"", "UID MOVE 7 \"F\"", "UID MOVE 7 \"F\"", "UID MOVE 7 \"F\""}, warn: "can't be marked or moved"},
	} {
		t.Run(test.name, test.run)
	}
}

func (test sweepTest) run(t *testing.T) {
	var commands []string
	withScript(t, func(s *script, r *receiver) {
		s.caps, s.flags, s.writable = test.caps, test.flags, true
		r.skips.flag, r.skips.folder = test.flag, test.folder
		s.before = func(c *scriptConn, command string, args []string) bool {
			switch command {
			case "UID STORE", "UID MOVE", "UID COPY", "UID EXPUNGE", "CREATE", "EXPUNGE":
			default:
				return false
			}
			s.mu.Lock()
			commands = append(commands, command+" "+strings.Join(args, " "))
			n := len(commands)
			s.mu.Unlock()
			if test.reply == nil {
				return false
			}
			switch reply := test.reply(n, command); reply {
			case "":
				return false
			case "close":
				c.Close()
			default:
				c.send("%s %s", c.tag, reply)
			}
			return true
		}
	}, func(t *scriptTest) {
		time.Sleep(time.Minute) // in IDLE
		foreign := "From: a@b.c\r\nSubject: hello\r\n\r\nhello\r\n"
		t.script.mu.Lock()
		for uid, raw := range []string{messageMail(t, 1, ""), foreign, messageMail(t, 3, ""), foreign, foreign, messageMail(t, 6, "")} {
			t.script.mails = append(t.script.mails, scriptMail{uid: uid + 1, raw: raw})
		}
		t.script.next = 7
		t.script.mu.Unlock()
		t.receiver.expect()
		for _, n := range []int{1, 3, 6} {
			t.want(n, n)
		}
		time.Sleep(time.Minute)
		t.script.add(foreign)
		t.script.addMessages(8, 8)
		t.want(8, 8)
		time.Sleep(time.Minute)
		synctest.Wait()
		if !slices.Equal(commands, test.want) {
			t.Errorf("commands %q, want %q", commands, test.want)
		}
		if n := strings.Count(t.log.String(), "can't be marked or moved"); n > 1 || (n == 1) != (test.warn != "") || !strings.Contains(t.log.String(), test.warn) {
			t.Errorf("%d lines in the log, want %q in one", n, test.warn)
		}
		if n := t.receiver.skips.read()[ForeignMail]; n != 4 {
			t.Errorf("%d mails have been skipped, want 4", n)
		}
	})
}

// TestSweepMany: many skipped mails are moved in portions, and what arrives meanwhile
// is delivered between them.
func TestSweepMany(t *testing.T) {
	const many = 5*sweepSize + 1
	var moves atomic.Int32
	withScript(t, func(s *script, r *receiver) {
		s.caps, s.writable, r.skips.folder = "IMAP4rev1 IDLE MOVE", true, "F"
		s.before = func(c *scriptConn, command string, args []string) bool {
			if command == "UID MOVE" {
				if moves.Add(1) == 1 {
					s.addMessages(many+1, many+1)
				}
				if n := strings.Count(args[0], ",") + 1; n > sweepSize {
					s.t.Errorf("%d mails are moved at once", n)
				}
			}
			return false
		}
	}, func(t *scriptTest) {
		time.Sleep(time.Minute)
		t.script.mu.Lock()
		for n := range many {
			t.script.mails = append(t.script.mails, scriptMail{uid: 2*n + 1, raw: fmt.Sprintf("From: a@b.c\r\nSubject: hello %d\r\n\r\n", n)})
		}
		t.script.next = 2*many + 1
		t.script.mu.Unlock()
		t.receiver.expect()
		select {
		case <-t.got:
			if n := moves.Load(); n == 0 || n == 6 {
				t.Errorf("the message came after %d of 6 moves", n)
			}
		case <-time.After(time.Minute):
			t.Fatal("the message did not come")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := moves.Load(); n != 6 {
			t.Errorf("%d moves, want 6", n)
		}
	})
}
