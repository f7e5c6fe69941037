package wire

import (
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// hostile are mails made to cost much, of about n bytes each.
var hostile = map[string]func(n int) string{
	"nested multiparts": func(n int) string {
		var b strings.Builder
		b.WriteString("Content-Type: multipart/mixed; boundary=b0\r\n\r\n")
		for i := 0; b.Len() < n; i++ {
			fmt.Fprintf(&b, "--b%d\r\nContent-Type: multipart/mixed; boundary=b%d\r\n\r\n", i, i+1)
		}
		return b.String()
	},
	"multiparts with one boundary": func(n int) string {
		return "Content-Type: multipart/mixed; boundary=b\r\n\r\n" + strings.Repeat("--b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n", n/50)
	},
	"parts": func(n int) string {
		return "Content-Type: multipart/mixed; boundary=b\r\n\r\n" + strings.Repeat("--b\r\n\r\n", n/7)
	},
	"almost delimiters": func(n int) string {
		b := strings.Repeat("-", maxBoundary)
		return "Content-Type: multipart/mixed; boundary=\"" + b + "\"\r\n\r\n" + strings.Repeat(b+"--x\r\n", n/maxBoundary)
	},
	"a line":             func(n int) string { return "\r\n" + strings.Repeat("x", n) },
	"empty lines":        func(n int) string { return "\r\n" + strings.Repeat("\n", n) },
	"blank lines":        func(n int) string { return "\r\n" + strings.Repeat(" \n", n/2) },
	"marks":              func(n int) string { return "\r\n" + strings.Repeat(">", n) },
	"quotations":         func(n int) string { return "\r\n" + strings.Repeat("> a\nb\n", n/6) },
	"quotations, blanks": func(n int) string { return "\r\n" + strings.Repeat("> a\n\n\n\n", n/7) },
	"colons":             func(n int) string { return "\r\n" + strings.Repeat("on 12.12.2012 wrote:\n", n/21) },
	"attributions":       func(n int) string { return "\r\n" + strings.Repeat("On 12.12.2012 12:12 a@b wrote:\n> c\n", n/35) },
	"labels":             func(n int) string { return "\r\n" + strings.Repeat("From: a\nDate: b\n", n/16) },
	"separators":         func(n int) string { return "\r\n" + strings.Repeat("-----Original Message-----\n> a\n", n/31) },
	"rules":              func(n int) string { return "\r\n" + strings.Repeat(strings.Repeat("_", 40)+"\n\n", n/42) },
	"signatures":         func(n int) string { return "\r\n" + strings.Repeat("--\n", n/3) },
	"flowed": func(n int) string {
		return "Content-Type: text/plain; format=flowed\r\n\r\n" + strings.Repeat("a \n", n/3)
	},
	"flowed marks": func(n int) string {
		return "Content-Type: text/plain; format=flowed\r\n\r\n" + strings.Repeat("> a \n>> b \n", n/11)
	},
	"encoded": func(n int) string {
		return "Content-Transfer-Encoding: quoted-printable\r\n\r\n" + strings.Repeat("=\r\n=3", n/5)
	},
	"blanks at the end of lines": func(n int) string {
		return "Content-Transfer-Encoding: quoted-printable\r\n\r\n" + strings.Repeat(strings.Repeat(" ", 500)+"\n", n/501)
	},
	"base64": func(n int) string { return "Content-Transfer-Encoding: base64\r\n\r\n" + strings.Repeat("Pgo+", n/4) },
	"charset": func(n int) string {
		return "Content-Type: text/plain; charset=iso-2022-jp\r\n\r\n" + strings.Repeat("\x1b$B", n/3)
	},
	"UTF-16": func(n int) string {
		return "Content-Type: text/plain; charset=utf-16\r\n\r\n" + strings.Repeat("\u4e00\n", n/4)
	},
	"open elements": func(n int) string { return htmlType + strings.Repeat("<blockquote>a", n/13) },
	"divisions":     func(n int) string { return htmlType + strings.Repeat("<div>", n/5) + strings.Repeat("</div>", n/5) },
	"wrong ends": func(n int) string {
		return htmlType + strings.Repeat("<span>", maxElements) + strings.Repeat("</b></p></span2>", n/16)
	},
	"crossed ends": func(n int) string { return htmlType + strings.Repeat("<div><span></div>a</span>", n/25) },
	"paragraphs":   func(n int) string { return htmlType + strings.Repeat("<p><br>", n/7) },
	"open comment": func(n int) string { return htmlType + strings.Repeat("<!--", n/4) },
	"open tags":    func(n int) string { return htmlType + strings.Repeat("<", n) },
	"open scripts": func(n int) string { return htmlType + strings.Repeat("<script>", n/8) },
	"attributes":   func(n int) string { return htmlType + "<div " + strings.Repeat("a=b ", n/4) + ">c" },
	"classes": func(n int) string {
		return htmlType + strings.Repeat("<p class='"+strings.Repeat("a ", 300)+"'>", n/615)
	},
	"entities":       func(n int) string { return htmlType + strings.Repeat("&NotEqualTilde;&", n/16) },
	"blanks in html": func(n int) string { return htmlType + strings.Repeat("a \n\t", n/4) },
	"preformatted":   func(n int) string { return htmlType + "<pre>" + strings.Repeat("\n", n) },
	"status groups": func(n int) string {
		return "Content-Type: multipart/report; boundary=b\r\n\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\n" +
			strings.Repeat("Final-Recipient: a@b\r\nAction: failed\r\n\r\n", n/40)
	},
	"diagnostics": func(n int) string {
		return "Content-Type: multipart/report; boundary=b\r\n\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\nAction: failed\r\nDiagnostic-Code: " +
			strings.Repeat("550-5.1.1 x\r\n ", min(n, 60000)/14)
	},
	"a report of IDs": func(n int) string {
		return "X-Failed-Recipients: a@b\r\n\r\n" + strings.Repeat("Message-ID: <a@b>\r\n", n/19)
	},
	"a report of codes": func(n int) string { return "X-Failed-Recipients: a@b\r\n\r\n" + strings.Repeat("550 5 ", n/6) },
	"report of words":   func(n int) string { return "X-Failed-Recipients: a@b\r\n\r\n" + strings.Repeat("a@b c\r\n", n/7) },
	"attached originals": func(n int) string {
		return "Content-Type: multipart/report; boundary=b\r\n\r\n" + strings.Repeat("--b\r\nContent-Type: message/rfc822\r\n\r\n"+strings.Repeat("a: b\r\n", 400), n/2440)
	},
}

const htmlType = "Content-Type: text/html\r\n\r\n"

// hostileHeaders are header sections made to cost much, as long as they may be.
var hostileHeaders = map[string]string{
	"encoded words":    "Subject: " + strings.Repeat("=?utf-8?q?a?= ", 4000),
	"no encoded words": "Subject: " + strings.Repeat("=?", 30000),
	"half words":       "Subject: " + strings.Repeat("=?a?q?", 10000),
	"charsets":         "Subject: " + strings.Repeat("=?a?q?x?==?b?q?x?=", 3300),
	"prefixes":         "Subject: " + strings.Repeat("Re: ", 15000),
	"tags":             "Subject: " + strings.Repeat("[a]", 20000),
	"open tags":        "Subject: " + strings.Repeat("[", 60000),
	"parameters":       "Content-Type: multipart/mixed" + strings.Repeat(";a=\"b\"", 10000),
	"references":       "References: " + strings.Repeat("<a@b>", 12000),
	"open references":  "References: " + strings.Repeat("<", 60000),
	"folds":            "Subject: " + strings.Repeat("a\r\n ", 15000),
	"recipients":       "To: " + strings.Repeat("a@b,", 15000),
	"comments":         "To: " + strings.Repeat("(", 60000),
	"fields":           strings.Repeat("a:b\r\n", MaxFields-10) + "X: y",
}

// decodeAll reads a mail in every way that this package can.
func decodeAll(tb testing.TB, raw []byte) {
	l, err := DecodeLetter(raw)
	if err == nil {
		requireSoundLetter(tb, l)
	}
	r, err := DecodeReport(raw)
	if err == nil {
		requireSoundReport(tb, r)
	}
}

func requireSoundLetter(tb testing.TB, l *Letter) {
	tb.Helper()
	switch {
	case !utf8.ValidString(l.Text) || !utf8.ValidString(l.Subject):
		tb.Fatalf("not UTF-8: %q %.200q", l.Subject, l.Text)
	case len(l.Text) > MaxLetterText || len(l.Subject) > MaxSubject || len(l.Answers) > MaxAnswers || len(l.To) > MaxAddresses:
		tb.Fatalf("beyond the limits: %d %d %d %d", len(l.Text), len(l.Subject), len(l.Answers), len(l.To))
	case strings.ContainsAny(l.Text, "\x00\r\x1b") || strings.ContainsAny(l.Subject, "\x00\r\n\t"):
		tb.Fatalf("control characters: %q %.200q", l.Subject, l.Text)
	case strings.HasPrefix(l.Text, "\n") || strings.HasSuffix(l.Text, "\n"):
		tb.Fatalf("empty lines at an end: %.200q", l.Text)
	case l.Reply && l.Forward || l.Forward && len(l.Answers) > 0:
		tb.Fatalf("contradictions: %+v", l)
	}
}

func requireSoundReport(tb testing.TB, r *Report) {
	tb.Helper()
	switch {
	case !utf8.ValidString(r.Text) || len(r.Text) > MaxReportText || strings.ContainsFunc(r.Text, isDirty):
		tb.Fatalf("text %q", r.Text)
	case len(r.Recipient) > MaxAddress || r.More < 0 || r.More > MaxAddresses:
		tb.Fatalf("recipient %q, %d more", r.Recipient, r.More)
	case r.Action < Failed || r.Action > Expanded:
		tb.Fatalf("action %v", r.Action)
	case r.Code != 0 && (r.Code < 200 || r.Code > 599) || r.Status != "" && statusCode(r.Status) == "":
		tb.Fatalf("codes %d %q", r.Code, r.Status)
	}
}

const hostileFrom = "From: MAILER-DAEMON@example.org\r\nIn-Reply-To: <a@b>\r\n"

// TestHostileMemory counts what is allocated: in proportion to the mail, beside what the
// most lines take that are kept.
func TestHostileMemory(t *testing.T) {
	const size = 256 << 10
	cases := make(map[string][]byte)
	for name, make := range hostile {
		cases[name] = []byte(hostileFrom + make(size))
	}
	for name, header := range hostileHeaders {
		cases["header: "+name] = []byte(hostileFrom + header + "\r\n\r\nx")
	}
	for name, raw := range cases {
		t.Run(name, func(t *testing.T) {
			// The least of several tries counts: pools are emptied at any time.
			least, most := uint64(math.MaxUint64), uint64(40*len(raw)+16<<20)
			for range 10 {
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				decodeAll(t, raw)
				runtime.ReadMemStats(&after)
				if least = min(least, after.TotalAlloc-before.TotalAlloc); least <= most {
					return
				}
			}
			t.Errorf("%d bytes allocated for a mail of %d", least, len(raw))
		})
	}
}

// TestHostileTime compares the time for a mail with that for one eight times as long: it
// must grow like the mail, not like its square. The best of several tries counts, so that
// what else the machine does makes no difference: it can only make a try slower.
func TestHostileTime(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes seconds")
	}
	duration := func(raw []byte) time.Duration {
		start := time.Now()
		decodeAll(t, raw)
		return time.Since(start)
	}
	for name, make := range hostile {
		t.Run(name, func(t *testing.T) {
			short, long := []byte(hostileFrom+make(8<<10)), []byte(hostileFrom+make(64<<10))
			leastShort, leastLong := time.Hour, time.Hour
			for range 30 {
				leastShort, leastLong = min(leastShort, duration(short)), min(leastLong, duration(long))
				if leastLong <= 30*leastShort {
					return
				}
			}
			t.Errorf("8 KiB take %v, 64 KiB take %v", leastShort, leastLong)
		})
	}
}
