package wire

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postbus/postbus/transport"
)

// asked is the request that the letters of testdata answer.
var asked = transport.NewID(client, 12, "robot.example.org")

// people are the letters of testdata/people; an answer to asked from Alice if not said
// otherwise.
var people = map[string]Letter{
	"apple-html.eml":             {Subject: "/approve", Reply: true, Text: "No."},
	"apple-mail.eml":             {Subject: "/approve", Reply: true, Text: "Fine with me. The total is = 3 €."},
	"auto-exchange-old.eml":      {Subject: "Abwesenheitsnotiz: /approve", Automatic: true, Text: "Ich bin bis Montag nicht im Haus."},
	"auto-exchange.eml":          {Subject: "Automatic reply: /approve", Automatic: true, Text: "I am out of the office until Monday."},
	"auto-gmail.eml":             {Subject: "On holiday Re: /approve", Automatic: true, Text: "Back on Monday."},
	"auto-no-reply.eml":          {Subject: "/chatter", Automatic: true, Text: "Your parcel is on its way.", From: "orders-no_reply@shop.example.org", Answers: none},
	"auto-receipt.eml":           {Subject: "Read: /approve", Automatic: true, Text: "Your message was read."},
	"auto-sieve.eml":             {Subject: "Auto: /approve", Automatic: true, Text: "I'm away."},
	"flowed-delsp.eml":           {Subject: "/plan", Reply: true, Text: "こんにちは、二番です。\nFrom here on: 1 2"},
	"forward.eml":                {Subject: "/approve", Forward: true, Text: "What does this robot want?", Answers: none},
	"gb18030.eml":                {Subject: "/approve", Reply: true, Text: "可以。"},
	"gmail-html-inline.eml":      {Subject: "/plan", Reply: true, Text: "The small one & the soft one.\n\nSlow, < 10 cm/s."},
	"gmail-long-attribution.eml": {Subject: "/approve", Reply: true, Text: "no"},
	"gmail-top.eml":              {Subject: "/approve", Reply: true, Text: "Yes, go ahead – but not before noon."},
	"iphone.eml":                 {Subject: "/approve", Reply: true, Text: "Läuft 👍"},
	"k9-mail.eml":                {Subject: "/approve", Reply: true, Text: "Geht klar."},
	"koi8-r.eml":                 {Subject: "/approve", Reply: true, Text: "Согласна."},
	"latin1-french.eml":          {Subject: "/approve", Reply: true, Text: "Déploiement accepté."},
	"mailing-list.eml":           {Subject: "/approve", Reply: true, Automatic: true, Text: "yes"},
	"mutt-inline.eml":            {Subject: "/plan", Reply: true, Text: "Hello robot,\n\nThe small one.\n\nSlow.\n\nFrom here on you know the way."},
	"nested.eml":                 {Subject: "/approve", Reply: true, Text: "See the picture: it is the left one."},
	"new-forward.eml": {Subject: "/chatter", Answers: none, Text: "-------- Forwarded Message --------\nSubject: lunch\n" +
		"Date: Fri, 20 Nov 2026 08:42:20 +0000\nFrom: Bob <bob@example.org>\n\nPizza at noon?"},
	"new.eml":                 {Subject: "/chatter", Answers: none, Text: "  indented: 1\n> this line is mine\nFrom: me\nTo: you\nSubject: the text goes on"},
	"only-quotation.eml":      {Subject: "/approve", Reply: true},
	"outlook-alternative.eml": {Subject: "/approve", Reply: true, Text: "Approved.\n\nKind regards\nAlice"},
	"outlook-german.eml":      {Subject: "/approve", Reply: true, Text: "Für mich in Ordnung.\n\nGrüße\nAlice"},
	"outlook-phone.eml":       {Subject: "/approve", Reply: true, Text: "Yes"},
	"outlook-web.eml":         {Subject: "/approve", Reply: true, Text: "yes"},
	"outlook-word-html.eml":   {Subject: "/approve", Reply: true, Text: "Approved.\n\nMind the cable, it is loose."},
	"placeholder.eml":         {Subject: "/approve", Reply: true, Text: "Yes please\nAlice"},
	"proton.eml":              {Subject: "/approve", Reply: true, Text: "yes"},
	"references-only.eml": {Subject: "approve", Text: "y", ReplyTo: "office@example.org", Answers: []transport.ID{
		transport.ParseID("last@example.org"), asked, transport.NewID(client, 7, "robot.example.org"), transport.ParseID("first@example.org"),
	}},
	"shift-jis.eml": {Subject: "/承認", Reply: true, Text: "承認します。"},
	"signed.eml":    {Subject: "/approve", Reply: true, Text: "I sign this: yes."},
	"tags.eml":      {Subject: "_the name", Reply: true, Text: "Yes"},
	"thunderbird-bottom.eml": {Subject: "/approve", Reply: true, Text: "Ja, aber bitte erst nach dem Mittagessen, denn vorher ist niemand da, " +
		"der den Not-Aus drücken könnte.\n\n> 812 ist die richtige Nummer."},
	"thunderbird-html.eml": {Subject: "/approve", Reply: true, Text: "Yes.\n\nTwice:\n\n- now\n- and at noon"},
	"unknown-charset.eml":  {Subject: "/approve ü", Reply: true, Text: "Heißt „ja“."},
	"utf-16.eml":           {Subject: "/approve", Reply: true, Text: "Ja, ich bin dafür."},
	"yahoo.eml":            {Subject: "/approve", Reply: true, Text: "yes"},
}

// none stands for no answers at all, where nil stands for the usual.
var none = []transport.ID{}

func TestLettersOfPeople(t *testing.T) {
	paths, err := filepath.Glob("testdata/people/*.eml")
	if err != nil || len(paths) != len(people) {
		t.Fatalf("testdata has %d letters, want %d (%v)", len(paths), len(people), err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			want := people[filepath.Base(path)]
			if want.From == "" {
				want.From = "alice@example.org"
			}
			if want.ReplyTo == "" {
				want.ReplyTo = want.From
			}
			if want.Answers == nil {
				want.Answers = []transport.ID{asked}
			}
			want.ID = transport.ParseID("letter@alice.example.org")
			want.To = []string{"robot@example.org"}
			want.Date = time.Date(2026, 11, 21, 12, 2, 11, 0, time.UTC)
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			requireLetter(t, mustDecodeLetter(t, raw), want)
			_, err = Decode(raw)
			requireError(t, err, ErrForeign)
			_, err = DecodeReport(raw)
			requireError(t, err, ErrForeign)
			// A store may have made LF of CRLF.
			lf := strings.ReplaceAll(string(raw), "\r\n", "\n")
			requireLetter(t, mustDecodeLetter(t, []byte(lf)), want)
		})
	}
}

func mustDecodeLetter(t testing.TB, raw []byte) *Letter {
	t.Helper()
	l, err := DecodeLetter(raw)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func requireLetter(t *testing.T, got *Letter, want Letter) {
	t.Helper()
	if len(got.Answers) == 0 && len(want.Answers) == 0 {
		want.Answers = got.Answers
	}
	if len(got.To) == 0 && len(want.To) == 0 {
		want.To = got.To
	}
	same := cmp.Comparer(func(a, b transport.ID) bool { return a == b })
	if diff := cmp.Diff(want, *got, same); diff != "" {
		t.Fatalf("the letter differs (-want +got):\n%s", diff)
	}
}

// sharedLetters are the letters beside the project, as a person reads them. Only what
// there is to tell about each is compared.
var sharedLetters = map[string]Letter{
	"allinkl-quote.eml": {Subject: "Message from Hocuri", Reply: true, Text: "It's 1.0.", Answers: ids("Mr.nru4puZrBpw.JfbybhIh75A@testrun.org")},
	"cp1252-html.eml":   {Subject: "test non-utf8 and dc_get_msg_html()", Text: "foo bar ä ö ü ß"},
	"gmx-quote.eml": {Subject: "Message from bob@gmx.de", Reply: true, Text: "YIPPEEEEEE\n\nMulti-line", Answers: ids(
		"Mr.3p9V5c7XjPQ.bcqzV4ls4ID@testrun.org", "trinity-764a001f-6593-4c33-b681-942d2ffb9f9f-1607359668635@3c-app-gmx-bs26",
		"Mr.SRvG2sUyI8E.pASbMFvaNqy@testrun.org")},
	"list-from.eml":           {Subject: "Vorteile sind zum Teilen da!", Automatic: true, Text: "Plain text spam"},
	"quote_attach.eml":        {Subject: "Message from Alice", Text: "Reply", Answers: ids("Mr.7h_HyOuM3Dz.xcp4v8QiQua@testrun.org")},
	"text_alt_html.eml":       {Subject: "mime-modified test", Text: "mime-modified set; simplify is always regarded as lossy."},
	"text_alt_plain_html.eml": {Subject: "mime-modified test", Text: "this is plain"},
	"text_plain_flowed.eml": {Text: "This line ends with a space and will be merged with the next one due to format=flowed.\n\n" +
		"This line does not end with a space\nand will be wrapped as usual."},
	"text_plain_iso88591.eml":            {Text: "message with a non-UTF-8 encoding: äöüßÄÖÜ"},
	"thunderbird_signed_unencrypted.eml": {Subject: "test message 15:53"},

	"ms_exchange_report_original_message.eml": {Subject: "Test message", Text: " This is a test!\n\nBest regards"},

	"calendar-alternative.eml": {Subject: "Subject was here", Text: "Hello!"},
	"messed_up_message_id.eml": {Subject: "..."}, // encrypted
	"wrong-html.eml":           {Subject: "subj?", Reply: true, Text: "Guten Abend,\n\nLots of text\ntext with Umlaut ä...\nMfG"},
}

func ids(texts ...string) (list []transport.ID) {
	for _, text := range texts {
		list = append(list, transport.ParseID(text))
	}
	return list
}

// sharedBroken are files beside the project that nobody would take for mail from anybody.
var sharedBroken = []string{"gmx-quote-body.eml", "mailparse-0.16.0-panic.eml", "stress.eml"}

func TestSharedLetters(t *testing.T) {
	for _, pattern := range []string{"people/*", "strange/*", "bounces/ms_*"} {
		for name, raw := range shared(t, pattern) {
			t.Run(name, func(t *testing.T) {
				if slices.Contains(sharedBroken, name) {
					_, err := DecodeLetter(raw)
					requireError(t, err, ErrForeign)
					return
				}
				want, ok := sharedLetters[name]
				if !ok {
					t.Fatal("the test does not say what it should give")
				}
				l := mustDecodeLetter(t, raw)
				if l.From == "" || l.ID.IsZero() || l.Date.IsZero() || len(l.To) != 1 {
					t.Errorf("from %q to %q, ID %q, date %v", l.From, l.To, l.ID, l.Date)
				}
				want.From, want.ReplyTo, want.ID, want.To, want.Date = l.From, l.ReplyTo, l.ID, l.To, l.Date
				requireLetter(t, l, want)
			})
		}
	}
}

func TestNoLetter(t *testing.T) {
	for name, raw := range map[string]string{
		"nothing":           "",
		"an empty line":     "\r\n",
		"text":              "Dear robot, yes.\r\n",
		"nobody's":          "Subject: /t\r\nDate: Sat, 21 Nov 2026 12:44:27 +0100\r\n\r\nx",
		"an empty sender":   "From:\r\n\r\nx",
		"501 fields":        strings.Repeat("a: b\r\n", MaxFields) + "From: a@example.org\r\n\r\nx",
		"a header too long": "From: a@example.org\r\nX: " + strings.Repeat("x", MaxHeaderBytes) + "\r\n\r\nx",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := DecodeLetter([]byte(raw))
			requireError(t, err, ErrForeign)
			_, err = DecodeReport([]byte(raw))
			requireError(t, err, ErrForeign)
		})
	}
}

func TestDamagedLetters(t *testing.T) {
	const head = "From: Alice <alice@example.org>\r\nSubject: Re: /approve\r\n"
	alternative := head + "Content-Type: multipart/alternative; boundary=b\r\n\r\n--b\r\nContent-Type: text/html\r\n\r\n<p>yes</p>\r\n--b"
	for name, c := range map[string]struct{ raw, text string }{
		"only a header":               {head, ""},
		"no end of the last part":     {alternative, "yes"},
		"no end of the boundary":      {strings.TrimSuffix(alternative, "b"), "yes"},
		"base64 cut off":              {head + "Content-Transfer-Encoding: base64\r\n\r\nZ3LDvMOf", "grüß"},
		"base64 cut inside a rune":    {head + "Content-Transfer-Encoding: base64\r\n\r\nZ3LDvMO", "grü"},
		"base64 with a footer":        {head + "Content-Transfer-Encoding: BASE64\r\n\r\neWVz\r\nIQ==\r\n-- \r\nlist footer\r\n", "yes!"},
		"base64 with blanks and junk": {head + "Content-Transfer-Encoding: base64\r\n\r\n e*W V\tz\r\n", "yes"},
		"quoted-printable broken":     {head + "Content-Transfer-Encoding: quoted-printable\r\n\r\n100=\t \r\n% =xy=C3=BC=3d=", "100% =xyü="},
		"encoding unknown":            {head + "Content-Transfer-Encoding: x-rot13\r\n\r\nyes\r\n", "yes"},
		"a boundary that is not there": {
			head + "Content-Type: multipart/mixed; boundary=\"x\"\r\n\r\nyes\r\n--y\r\n", "yes\n--y"},
		"no boundary":          {head + "Content-Type: multipart/mixed\r\n\r\nyes\r\n", "yes"},
		"no parts":             {head + "Content-Type: multipart/mixed; boundary=x\r\n\r\npreamble\r\n--x--\r\nepilogue", ""},
		"content type broken":  {head + "Content-Type: text/html; =; charset; charset=\"iso-8859-1;\r\n\r\n<b>yes</b>", "yes"},
		"content type is text": {head + "Content-Type: text\r\n\r\nyes", ""},
		"a picture":            {head + "Content-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\neWVz", ""},
		"an attachment alone":  {head + "Content-Type: text/plain\r\nContent-Disposition: attachment; filename=x\r\n\r\nyes", ""},
		"an attached mail":     {head + "Content-Type: message/rfc822\r\n\r\nFrom: b@example.org\r\n\r\nyes", ""},
		"markup in plain text": {head + "\r\n<b>yes</b>", "<b>yes</b>"},
		"control characters":   {head + "\r\n\x00y\x1b[1me\x07s\x7f\ufeff\r\r\n", "y[1mes"},
		"bare CR":              {head + "\r\nyes\rand no\r", "yes\nand no"},
		"UTF-8 said ASCII":     {head + "Content-Type: text/plain; charset=us-ascii\r\n\r\nGrüße", "Grüße"},
		"UTF-8 broken":         {head + "Content-Type: text/plain; charset=utf-8\r\n\r\na\xffb", "a\uFFFDb"},
		"boundary in quotes with a semicolon": {
			head + "Content-Type: multipart/mixed; x=\"a;boundary=no\\\"\"; boundary=\"a; b\"\r\n\r\n--a; b\r\n\r\nyes\r\n--a; b--", "yes"},
		"boundary that begins another": {
			head + "Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\nContent-Type: multipart/mixed; boundary=ab\r\n\r\n--ab\r\n\r\nyes\r\n--ab--\r\n--a--", "yes"},
		"first text empty": {
			head + "Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\n\r\n \r\n--a\r\n\r\nyes\r\n--a\r\n\r\nlist footer\r\n--a--", "yes"},
		"all lines quoted": {head + "\r\n> a\r\n>\r\n> b\r\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if l := mustDecodeLetter(t, []byte(c.raw)); l.Text != c.text {
				t.Errorf("got %q, want %q", l.Text, c.text)
			}
		})
	}
}

// TestLetterCutOff checks that of the beginning of a mail as much is read as there is.
func TestLetterCutOff(t *testing.T) {
	for name := range people {
		raw, err := os.ReadFile(filepath.Join("testdata/people", name))
		if err != nil {
			t.Fatal(err)
		}
		whole := mustDecodeLetter(t, raw)
		head := strings.Index(string(raw), "\r\n\r\n") + 4
		for n := head; n < len(raw); n += 5 {
			l := mustDecodeLetter(t, raw[:n])
			if l.Subject != whole.Subject || l.ID != whole.ID || l.Automatic != whole.Automatic || !slices.Equal(l.Answers, whole.Answers) {
				t.Fatalf("%s cut to %d bytes: %+v", name, n, l)
			}
		}
	}
}

func TestLetterSharesNoMemory(t *testing.T) {
	for name := range people {
		raw, err := os.ReadFile(filepath.Join("testdata/people", name))
		if err != nil {
			t.Fatal(err)
		}
		want := *mustDecodeLetter(t, raw)
		got := mustDecodeLetter(t, raw)
		clear(raw)
		requireLetter(t, got, want)
	}
}

func TestAnswersAreBounded(t *testing.T) {
	var references strings.Builder
	for range 1000 {
		references.WriteString(" <" + strings.Repeat("x", 40) + "@example.org>")
	}
	for i := range 100 {
		references.WriteString(" <" + transport.NewID(client, uint64(i), "h").String() + ">")
	}
	raw := "From: a@example.org\r\nIn-Reply-To: <> <no id> <" + asked.String() + "> < <" + asked.String() + "\r\nReferences:" + references.String() + "\r\n\r\n"
	l := mustDecodeLetter(t, []byte(raw))
	if len(l.Answers) != MaxAnswers || l.Answers[0] != asked || l.Answers[1] != transport.NewID(client, 99, "h") {
		t.Errorf("got %d answers: %v", len(l.Answers), l.Answers)
	}
}
