package wire

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/postbus/postbus/transport"
)

// bounces are the reports of testdata/bounces, about asked if not said otherwise.
var bounces = map[string]Report{
	"exchange.eml": {Recipient: "nobody@example.net", Action: Failed, Status: "5.1.10", Code: 550,
		Text: "RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup"},
	"exim-warning.eml": {Recipient: "nobody@example.net", Action: Delayed, Text: "host mx.example.net [192.0.2.9] Delay reason: mailbox is full"},
	"exim.eml":         {Recipient: "nobody@example.net", Action: Failed, Code: 550, Text: "No such person at this address"},
	"gmail.eml": {Recipient: "nobody@gmail.example", Action: Failed, Status: "5.1.1", Code: 550,
		Text: "The email account that you tried to reach does not exist. Please try double-checking the recipient's email address for typos or unnecessary spaces. - gsmtp"},
	"postfix-delayed.eml": {Recipient: "nobody@example.net", Action: Delayed, Status: "4.4.1",
		Text: "connect to mx.example.net[192.0.2.9]:25: Connection timed out"},
	"postfix-several.eml": {Recipient: "full@example.net", More: 1, Action: Failed, Status: "5.2.2", Code: 552,
		Text: "The mailbox is full. Try again when it is not."},
	"postfix.eml": {Recipient: "nobody@example.net", Action: Failed, Status: "5.1.1", Code: 550,
		Text: "<nobody@example.net>: Recipient address rejected: User unknown"},
	"provider.eml": {Recipient: "nobody@example.net", Action: Failed, Status: "5.1.1", Code: 550, Text: "Unbekannter Empfänger (550 5.1.1 unknown)"},
	"qmail.eml": {Recipient: "nobody@example.net", Action: Failed, Status: "5.3.0", Code: 553,
		Text: "<nobody@example.net>... User unknown Giving up on 192.0.2.9."},
	"relayed.eml": {Recipient: "someone@example.net", Action: Relayed, Status: "2.0.0", Code: 250, Text: "Ok: queued as 4G2B6"},
	"silent.eml":  {Action: Failed, Text: "I have a bad day."},
	"utf8.eml":    {Recipient: "nobody@example.net", Action: Failed, Status: "5.1.1", Code: 550, Text: "Empfänger unbekannt"},
}

func TestReports(t *testing.T) {
	paths, err := filepath.Glob("testdata/bounces/*.eml")
	if err != nil || len(paths) != len(bounces) {
		t.Fatalf("testdata has %d reports, want %d (%v)", len(paths), len(bounces), err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			want := bounces[filepath.Base(path)]
			want.Original = asked
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			requireReport(t, mustDecodeReport(t, raw), want)
			requireReport(t, mustDecodeReport(t, []byte(strings.ReplaceAll(string(raw), "\r\n", "\n"))), want)
			if !mustDecodeLetter(t, raw).Automatic {
				t.Error("as a letter, it is not automatic")
			}
			_, err = Decode(raw)
			requireError(t, err, ErrForeign)
		})
	}
}

func mustDecodeReport(t testing.TB, raw []byte) *Report {
	t.Helper()
	r, err := DecodeReport(raw)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func requireReport(t *testing.T, got *Report, want Report) {
	t.Helper()
	if diff := cmp.Diff(want, *got, cmp.Comparer(func(a, b transport.ID) bool { return a == b })); diff != "" {
		t.Fatalf("the report differs (-want +got):\n%s", diff)
	}
}

// sharedReports are the reports beside the project, as a person reads them.
var sharedReports = map[string]Report{
	"dsn_relayed.eml": {Original: transport.ParseID("8b7b1a9d0c8cc588c7bcac47f5687634@posteo.de"), Recipient: "anon_2@gmx.at",
		Action: Relayed, Status: "2.0.0", Code: 250, Text: "Requested mail action okay, completed: id=1M9ohD-1lvXys2NFd-005r3O"},
	"gmail_ndn.eml": {Original: transport.ParseID("CABXKi8zruXJc_6e4Dr087H5wE7sLp+u250o0N2q5DdjF_r-8wg@mail.gmail.com"),
		Recipient: "assidhfaaspocwaeofi@gmail.com", Action: Failed, Status: "5.1.1", Code: 550,
		Text: "The email account that you tried to reach does not exist. Please try double-checking the recipient's email address for typos or " +
			"unnecessary spaces. Learn more at https://support.google.com/mail/?p=NoSuchUser i18sor6261697wrs.38 - gsmtp"},
	"gmx_ndn.eml": {Original: transport.ParseID("9c9c2a32-056b-3592-c372-d7e8f0bd4bc2@gmx.de"), Recipient: "snaerituhaeirns@gmail.com",
		Action: Failed, Status: "5.1.1", Code: 550,
		Text: "The email account that you tried to reach does not exist. Please try double-checking the recipient's email address for typos or " +
			"unnecessary spaces. Learn more at https://support.google.com/mail/?p=NoSuchUser f6si2517766wmc.21 9 - gsmtp"},
	"posteo_ndn.eml": {Original: transport.ParseID("04422840-f884-3e37-5778-8192fe22d8e1@posteo.de"), Recipient: "hanerthaertidiuea@gmx.de",
		Action: Failed, Status: "5.0.0", Code: 550, Text: "Requested action not taken: mailbox unavailable"},
	"testrun_ndn.eml": {Original: transport.ParseID("Mr.A7pTA5IgrUA.q4bP41vAJOp@testrun.org"), Recipient: "hcksocnsofoejx@five.chat",
		Action: Failed, Status: "5.1.1", Code: 550,
		Text: "<hcksocnsofoejx@five.chat>: Recipient address rejected: User unknown in virtual mailbox table"},
	"tiscali_ndn.eml": {Original: transport.ParseID("Mr.un2NYERi1RM.lbQ5F9q-QyJ@tiscali.it"), Recipient: "shenauithz@testrun.org",
		Action: Failed, Status: "5.1.1", Code: 550,
		Text: "<shenauithz@testrun.org>: Recipient address rejected: User unknown in virtual mailbox table"},
}

func TestSharedReports(t *testing.T) {
	for name, raw := range shared(t, "bounces/*") {
		t.Run(name, func(t *testing.T) {
			want, ok := sharedReports[name]
			if !ok { // it is the mail that a report was about
				_, err := DecodeReport(raw)
				requireError(t, err, ErrForeign)
				return
			}
			requireReport(t, mustDecodeReport(t, raw), want)
		})
	}
	for _, pattern := range []string{"people/*", "strange/*", "rmw_email/*.eml"} {
		for name, raw := range shared(t, pattern) {
			if r, err := DecodeReport(raw); err == nil {
				t.Errorf("%s was read as a report: %+v", name, r)
			}
		}
	}
}

// TestReportCutOff checks that of the beginning of a report as much is read as there is,
// and that the beginning of a report is never a letter that a person wrote.
func TestReportCutOff(t *testing.T) {
	for name := range bounces {
		raw, err := os.ReadFile(filepath.Join("testdata/bounces", name))
		if err != nil {
			t.Fatal(err)
		}
		whole := mustDecodeReport(t, raw)
		for n := strings.Index(string(raw), "\r\n\r\n") + 4; n < len(raw); n += 5 {
			r, err := DecodeReport(raw[:n])
			if err != nil {
				requireError(t, err, ErrForeign)
				continue
			}
			if _, _, ours := r.Original.Origin(); ours && r.Original != whole.Original {
				t.Fatalf("%s cut to %d bytes is about %v", name, n, r.Original)
			}
			if !mustDecodeLetter(t, raw[:n]).Automatic {
				t.Fatalf("%s cut to %d bytes is a letter", name, n)
			}
		}
	}
}

const daemon = "From: MAILER-DAEMON@example.org\r\nSubject: failure notice\r\n"

// statusReport returns a report with these fields about recipients.
func statusReport(fields string) string {
	return "From: MAILER-DAEMON@example.org\r\nContent-Type: multipart/report; boundary=b\r\n\r\n--b\r\n\r\nSorry.\r\n\r\n<a@example.net>: is not here.\r\nOr is it?\r\n\r\nBye\r\n" +
		"--b\r\nContent-Type: message/delivery-status\r\n\r\n" + strings.ReplaceAll(fields, "\n", "\r\n") + "\r\n--b--"
}

func TestStatusFields(t *testing.T) {
	for fields, want := range map[string]Report{
		"Reporting-MTA: dns; x\n\nFinal-Recipient: rfc822; a@b\nAction: failed\nStatus: 5.0.0": {
			Recipient: "a@b", Action: Failed, Status: "5.0.0", Text: "Sorry."},
		"final-recipient: a@b\naction: FAILED\nstatus: 5.7.1 (refused)\ndiagnostic-code: smtp; 554 5.7.1 no": {
			Recipient: "a@b", Action: Failed, Status: "5.7.1", Code: 554, Text: "no"},
		"\n\n\nFinal-Recipient: rfc822; <a@b>\n\n\n\nFinal-Recipient: rfc822; c@d\nAction: failed\nDiagnostic-Code: smtp; 550-a\n 550-b\n 550 c": {
			Recipient: "a@b", Action: Failed, More: 1, Text: "Sorry."},
		"Final-Recipient: rfc822; a@b\nStatus: 4.4.7\nDiagnostic-Code: smtp; timed out": {
			Recipient: "a@b", Action: Delayed, Status: "4.4.7", Text: "timed out"},
		"Final-Recipient: rfc822; a@b\nAction: delivered\n\nFinal-Recipient: rfc822; c@d\nAction: expanded\nStatus: 2.0.0": {
			Recipient: "a@b", Action: Delivered, Text: "Sorry."},
		"Final-Recipient: rfc822; a@b\nAction: celebrated\nStatus: 9.9.9\nDiagnostic-Code: 550 no": {
			Recipient: "a@b", Action: Failed, Code: 550, Text: "no"},
		"Action: failed": {
			Recipient: "a@example.net", Action: Failed, Text: "is not here. Or is it?"},
		"Final-Recipient: rfc822; a@b\nAction: failed\nDiagnostic-Code: X-Unix; \x1b[1mb\xfcrk\x00\n\t  no": {
			Recipient: "a@b", Action: Failed, Text: "[1mbürk no"},
	} {
		t.Run(fields, func(t *testing.T) {
			requireReport(t, mustDecodeReport(t, []byte(statusReport(fields))), want)
		})
	}
}

func TestOriginalOfReport(t *testing.T) {
	other := transport.ParseID("other@example.org")
	for name, c := range map[string]struct {
		raw  string
		want transport.ID
	}{
		"in the text":                         {daemon + "\r\n<a@b>: no\r\nMessage-ID: <" + asked.String() + ">\r\n", asked},
		"in the text, quoted and in capitals": {daemon + "\r\n<a@b>: no\r\n> MESSAGE-ID : <" + asked.String() + ">\r\n", asked},
		"ours among others":                   {daemon + "In-Reply-To: <other@example.org>\r\n\r\n<a@b>: no\r\nMessage-ID: <x@y>\r\n Message-ID:" + asked.String() + "\r\n", asked},
		"not ours":                            {daemon + "In-Reply-To: <other@example.org>\r\n\r\n<a@b>: no\r\nMessage-ID: <x@y>\r\n", other},
		"in a sentence":                       {daemon + "\r\n<a@b>: no\r\nThe Message-ID: <" + asked.String() + "> failed\r\n", transport.ID{}},
		"none":                                {daemon + "\r\n<a@b>: no\r\n", transport.ID{}},
		"rewritten by Exchange": {daemon + "Content-Type: multipart/report; boundary=b\r\n\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n\r\n" +
			"Message-ID: <x@y>\r\nX-Microsoft-Original-Message-ID: <" + asked.String() + ">\r\n", asked},
		"quoted-printable": {daemon + "Content-Type: multipart/report; boundary=b\r\n\r\n--b\r\nContent-Type: text/rfc822-headers\r\n" +
			"Content-Transfer-Encoding: quoted-printable\r\n\r\nMessage-ID:=20<" + asked.String()[:20] + "=\r\n" + asked.String()[20:] + ">\r\n", asked},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := DecodeReport([]byte(c.raw))
			if err != nil {
				t.Fatal(err)
			}
			if r.Original != c.want {
				t.Errorf("got %v, want %v", r.Original, c.want)
			}
		})
	}
}

func TestNoReport(t *testing.T) {
	for name, raw := range map[string]string{
		"a person":                         "From: alice@example.org\r\nSubject: Undeliverable parcels\r\n\r\nMessage-ID: <" + asked.String() + ">\r\n",
		"a person at the post":             "From: postmaster@example.org\r\nSubject: Re: /approve\r\n\r\nMessage-ID: <" + asked.String() + ">\r\n",
		"an absent person":                 "From: alice@example.org\r\nReturn-Path: <>\r\nSubject: Out of office: delivery status\r\n\r\nback soon",
		"a read receipt":                   daemon + "Content-Type: multipart/report; report-type=disposition-notification; boundary=b\r\n\r\n--b\r\nContent-Type: message/disposition-notification\r\n\r\nOriginal-Message-ID: <" + asked.String() + ">\r\n",
		"a read receipt in all but name":   "From: alice@example.org\r\nContent-Type: multipart/report; boundary=b\r\n\r\n--b\r\nContent-Type: message/disposition-notification\r\n\r\nOriginal-Message-ID: <" + asked.String() + ">\r\n",
		"a complaint":                      daemon + "Content-Type: multipart/report; report-type=feedback-report; boundary=b\r\n\r\n",
		"a full disk":                      "From: MAILER-DAEMON@example.org\r\nSubject: Your disk is full\r\n\r\nPlease delete something.",
		"a report that a person passes on": "From: alice@example.org\r\nContent-Type: multipart/mixed; boundary=m\r\n\r\n--m\r\nContent-Type: message/rfc822\r\n\r\n" + statusReport("Final-Recipient: a@b\r\nAction: failed"),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := DecodeReport([]byte(raw))
			requireError(t, err, ErrForeign)
		})
	}
}

func TestActionString(t *testing.T) {
	if s := Failed.String() + " " + Expanded.String() + " " + Action(0).String() + " " + Action(9).String(); s != "failed expanded action(0) action(9)" {
		t.Error(s)
	}
}
