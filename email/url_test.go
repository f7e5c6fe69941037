package email

import (
	"strings"
	"testing"
)

func TestParseServer(t *testing.T) {
	all := append(append(smtpSchemes[:len(smtpSchemes):len(smtpSchemes)], lmtpSchemes...), imapSchemes...)
	long := "/" + strings.Repeat("x", maxSocketPath)
	for _, test := range []struct {
		text, want string
		network    string
		folder     string
		wrong      string
	}{
		{text: "mail.example.com", want: "smtps://mail.example.com:465", network: "tcp"},
		{text: "mail.example.com:1465", want: "smtps://mail.example.com:1465", network: "tcp"},
		{text: "smtps://[::1]/", want: "smtps://[::1]:465", network: "tcp"},
		{text: "smtps://h/x", wrong: "only a scheme, host and port"},
		{text: "lmtp+insecure://h", want: "lmtp+insecure://h:24", network: "tcp"},
		{text: "lmtp+insecure://h/x", wrong: "only a scheme, host and port"},
		{text: "lmtp+unix:///run/mail/lmtp.sock", want: "lmtp+unix:///run/mail/lmtp.sock", network: "unix"},
		{text: "lmtp+unix:///run/a%20b", want: "lmtp+unix:///run/a b", network: "unix"},
		{text: "lmtp+unix://run/lmtp.sock", wrong: "the absolute path of a socket"},
		{text: "lmtp+unix:///", wrong: "the absolute path of a socket"},
		{text: "lmtp+unix://" + long, wrong: "at most 107 bytes, this one has 108"},
		{text: "lmtp+unix://" + long[1:], wrong: "the absolute path of a socket"},
		{text: "imaps://h", want: "imaps://h:993", network: "tcp", folder: "INBOX"},
		{text: "imaps://h/", want: "imaps://h:993", network: "tcp", folder: "INBOX"},
		{text: "imaps://h/inbox", want: "imaps://h:993", network: "tcp", folder: "INBOX"},
		{text: "imap+starttls://h:1143/Team/Robots", want: "imap+starttls://h:1143/Team/Robots", network: "tcp", folder: "Team/Robots"},
		{text: "imap+insecure://h/Gespr%C3%A4che", want: "imap+insecure://h:143/Gespräche", network: "tcp", folder: "Gespräche"},
		{text: "imaps://h/a%0Ab", wrong: "is not the name of a folder"},
		{text: "imaps://h/*", wrong: "is not the name of a folder"},
		{text: "imaps://u:p@h/x", wrong: "only a scheme, host, port and folder"},
		{text: "imaps:///x", wrong: "only a scheme, host, port and folder"},
		{text: "pop3://h", wrong: `unknown scheme "pop3"`},
		{text: "", wrong: "not given"},
	} {
		s, err := parseServer(test.text, all)
		switch {
		case test.wrong != "":
			if err == nil || !strings.Contains(err.Error(), test.wrong) {
				t.Errorf("%q: error %v, want %q in it", test.text, err, test.wrong)
			}
		case err != nil:
			t.Errorf("%q: %v", test.text, err)
		case s.String() != test.want || s.network() != test.network || s.folder != test.folder:
			t.Errorf("%q is %s, %s, folder %q", test.text, s, s.network(), s.folder)
		}
	}
}
