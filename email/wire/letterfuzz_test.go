package wire

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// seedMails adds all mails that there are to a fuzz target.
func seedMails(f *testing.F) {
	for _, pattern := range []string{"testdata/*/*.eml", "testdata/*.eml", "../../../shared/vectors/*/*.eml"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, path := range paths {
			raw, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(raw)
		}
	}
}

// FuzzLetter checks that any bytes give a letter within its limits or an error, and that
// the beginning of a mail does, too.
func FuzzLetter(f *testing.F) {
	seedMails(f)
	for _, make := range hostile {
		f.Add([]byte(hostileFrom + make(1000)))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		kept := string(raw)
		l, err := DecodeLetter(raw)
		if string(raw) != kept {
			t.Fatal("the mail was changed")
		}
		if err != nil {
			if !errors.Is(err, ErrForeign) {
				t.Fatalf("error of no kind: %v", err)
			}
			requireLoggable(t, err)
			return
		}
		requireSoundLetter(t, l)
		if len(l.Text) > 4*len(raw)+16 {
			t.Fatalf("a text of %d bytes from a mail of %d", len(l.Text), len(raw))
		}
		if part, err := DecodeLetter(raw[:len(raw)/2]); err == nil {
			requireSoundLetter(t, part)
		}
	})
}

// FuzzReport checks that any bytes give a report within its limits or an error.
func FuzzReport(f *testing.F) {
	seedMails(f)
	f.Add([]byte(statusReport("Final-Recipient: rfc822; a@b\nAction: failed\nDiagnostic-Code: smtp; 550-a\n 550 b")))
	f.Add([]byte("Content-Type: multipart/report; boundary=b\r\n\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\nFinal-Recipient: rfc822; a@b\r\nAction: failed\r\n\r\n" +
		"--b\r\nContent-Type: message/rfc822\r\n\r\n" + string(mustBatch(f, robot, numbered(3)...)) + "--b--\r\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		kept := string(raw)
		r, err := DecodeReport(raw)
		if string(raw) != kept {
			t.Fatal("the mail was changed")
		}
		if err != nil {
			if !errors.Is(err, ErrForeign) {
				t.Fatalf("error of no kind: %v", err)
			}
			requireLoggable(t, err)
			return
		}
		requireSoundReport(t, r)
		if part, err := DecodeReport(raw[:len(raw)/2]); err == nil {
			requireSoundReport(t, part)
		}
	})
}

// FuzzQuote checks that the words of a writer are in the text, in their order, and that
// text without anything that marks quotations is kept whole.
func FuzzQuote(f *testing.F) {
	for _, text := range []string{
		"yes\n\nOn 21 Nov 2026 at 12:44, Robot <robot@example.org> wrote:\n\n> a?\n> b?\nno\n-- \nAlice",
		"yes\n\n-----Original Message-----\nFrom: a\nSent: b\nSubject: c\n\nd", "a \nb \n> c \n>> d\n > e", "\n\n>From x\n>y\n",
		"yes\n________________________________\n*Von:* a@b\n\nGesendet: 21.11.\n\nBetreff: c\nd", "ja\n\nVon meinem iPhone gesendet", "a\n--\nb",
	} {
		f.Add(text, true, false)
		f.Add(text, false, true)
	}
	f.Fuzz(func(t *testing.T, text string, reply, flowed bool) {
		text = cleanText(strings.ToValidUTF8(text, "\uFFFD"))
		lines := quotedLines(text)
		if flowed {
			lines = flowedLines(text, reply)
		}
		got := ownWords(lines, reply)
		if !utf8.ValidString(got) || len(got) > 2*len(text)+2 {
			t.Fatalf("%d bytes of %d: %q", len(got), len(text), got)
		}
		rest := lines
		for line := range strings.SplitSeq(got, "\n") {
			found := strings.TrimSpace(line) == ""
			for ; !found && len(rest) > 0; rest = rest[1:] {
				kept := rest[0].kept()
				found = strings.TrimSpace(kept.text) == strings.TrimSpace(line)
			}
			if !found {
				t.Fatalf("%q is not in the text\n%q", line, text)
			}
		}
		if !strings.ContainsAny(text, ">-_:") && !strings.Contains(strings.ToLower(text), "sent") && len(lines) < maxLines {
			var all []string
			for _, l := range lines {
				all = append(all, strings.TrimRight(l.text, " \t"))
			}
			if isMobileSignature(lastLine(strings.Join(all, "\n"))) {
				return
			}
			if want := strings.TrimSpace(strings.Join(all, "\n")); strings.TrimSpace(got) != want && !strings.ContainsRune(text, '：') {
				t.Fatalf("%q became %q", want, got)
			}
		}
	})
}

func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return text[strings.LastIndexByte(text, '\n')+1:]
}

// FuzzHTML checks that any HTML gives lines of bounded length and number.
func FuzzHTML(f *testing.F) {
	for _, s := range []string{
		"<p>a<br>b</p><blockquote>c<blockquote>d</blockquote></blockquote><div class=gmail_attr>e</div>", "<pre>a\n b</pre>&nbsp;&amp;&#0;&#x80;",
		"<div name=quote><table><tr><td>a</div></td></table></div>", "<style>a</style><script>b</script><!-- c --><![CDATA[d]]><title>e</title>",
		"<blockquote style='border: none'>a</blockquote><div id=divRplyFwdMsg>", "<ul><li>a<li>b</ul><hr><span class=gmail_signature>c<span></span></span>",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, document string) {
		document = strings.ToValidUTF8(document, "\uFFFD")
		lines := htmlLines(document)
		if len(lines) > maxLines {
			t.Fatalf("%d lines", len(lines))
		}
		size := 0
		for _, l := range lines {
			size += len(l.text) + 1
			if l.quote < 0 || l.quote > maxElements || !utf8.ValidString(l.text) || strings.ContainsAny(l.text, "\n\r\x00") {
				t.Fatalf("line %+v", l)
			}
		}
		if size > 2*len(document)+2 {
			t.Fatalf("%d bytes of %d", size, len(document))
		}
		for _, reply := range []bool{true, false} {
			if text := ownWords(lines, reply); !utf8.ValidString(text) || len(text) > size {
				t.Fatalf("%d bytes of %d: %q", len(text), size, text)
			}
		}
	})
}

// FuzzSubject checks that any subject becomes one line of text, from which no more can
// be cut.
func FuzzSubject(f *testing.F) {
	for _, s := range []string{
		"Re: [list] =?utf-8?q?AW=3A_/approve?=", "=?iso-2022-jp?b?GyRCSj8/LhsoQg==?=", "=?utf-8?q?=C3?= =?utf-8?q?=BC?=", "[EXTERNAL] Re[2]: ***SPAM*** Fwd: x",
		"回复：转发: /approve", "=?x?q?a?==?utf-16?b?AGE?=", "Re:\r\n /approve", "[a]: [b]", "*** ***",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		text := headerText(unfold(value))
		if !utf8.ValidString(text) || strings.ContainsAny(text, "\r\n\t\x00") || strings.TrimSpace(text) != text {
			t.Fatalf("%q became %q", value, text)
		}
		if len(text) > 4*len(value) {
			t.Fatalf("%d bytes of %d", len(text), len(value))
		}
		text = cutText(text, MaxSubject)
		rest, reply, forward := cutPrefixes(text)
		if reply && forward || !strings.HasSuffix(strings.TrimSpace(text), rest) {
			t.Fatalf("%q became %q %v %v", text, rest, reply, forward)
		}
		if again, reply, forward := cutPrefixes(rest); again != rest || reply || forward {
			t.Fatalf("%q became %q and then %q", text, rest, again)
		}
	})
}
