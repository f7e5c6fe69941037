package email_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/transport"
)

// minimal is what every configuration needs.
const minimal = `email:
  user:
    url-smtp: smtp.example.com
    url-imap: imap.example.com
    username: me@example.com
    password: secret
`

func TestParseConfig(t *testing.T) {
	t.Setenv("POSTBUS_TEST_SECRET", "from the environment")
	server, err := mailserver.Start(mailserver.Config{TLS: true})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	folder := t.TempDir()
	for name, content := range map[string][]byte{"password": []byte("from a file\n"), "ca.pem": server.CACertPEM()} {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	bare := email.Config{SMTP: "smtp.example.com", IMAP: "imap.example.com", Username: "me@example.com", Password: "secret"}
	with := func(change func(*email.Config)) email.Config {
		c := bare
		change(&c)
		return c
	}
	for _, test := range []struct {
		name, text string
		want       email.Config
	}{
		{"minimal", minimal, bare},
		{"of rmw_email", "email:\n  polling-period: 100000000\n  intraprocess: true\n" + strings.TrimPrefix(minimal, "email:\n") + "  recipients:\n    to: a@b.c\n",
			with(func(c *email.Config) {
				c.PollingPeriod, c.Intraprocess, c.To = 100*time.Millisecond, true, []string{"a@b.c"}
			})},
		{"lists", minimal + "  recipients:\n    to: [a@b.c, Robot <r@b.c>]\n    cc:\n      - d@b.c\n    bcc: []\n",
			with(func(c *email.Config) { c.To, c.Cc = []string{"a@b.c", "r@b.c"}, []string{"d@b.c"} })},
		{"password of digits", strings.Replace(minimal, "secret", "0123", 1), with(func(c *email.Config) { c.Password = "0123" })},
		{"password file", strings.Replace(minimal, "password: secret", "password-file: password", 1), with(func(c *email.Config) { c.Password = "from a file" })},
		{"password variable", strings.Replace(minimal, "password: secret", "password-env: POSTBUS_TEST_SECRET", 1), with(func(c *email.Config) { c.Password = "from the environment" })},
		{"zero period is no period", minimal + "  polling-period: 0\n", bare},
		{"user name that is no address", strings.Replace(minimal, "me@example.com", "me\n    from: me@example.com", 1), with(func(c *email.Config) { c.Username, c.From = "me", "me@example.com" })},
		{"alias", strings.Replace(minimal, "me@", "&me me@", 1) + "    from: *me\n", with(func(c *email.Config) { c.From = "me@example.com" })},
		{"CA", minimal + "  tls:\n    ca-file: ca.pem\n", with(func(c *email.Config) { c.CA = server.CACertPEM() })},
		{"routes and limits", minimal + "routes:\n- {pattern: /a/>, to: x@b.c}\n- pattern: />\n  to: [y@b.c, z@b.c]\nlimits:\n  max-body: 1000\n",
			with(func(c *email.Config) {
				c.Routes = transport.Routes{{Pattern: "/a/>", To: []string{"x@b.c"}}, {Pattern: "/>", To: []string{"y@b.c", "z@b.c"}}}
				c.MaxBody = 1000
			})},
		{"outbox", minimal + "outbox:\n  file: out/box.db\n  max-entries: 5\n  max-bytes: 6000000000\n  max-age: 36h\n  when-full: drop-oldest\n",
			with(func(c *email.Config) {
				c.Outbox = email.Outbox{File: filepath.Join(folder, "out/box.db"), MaxEntries: 5, MaxBytes: 6e9, MaxAge: 36 * time.Hour, DropOldest: true}
			})},
		{"state", minimal + "state: kept/state.db\n", with(func(c *email.Config) { c.State = filepath.Join(folder, "kept/state.db") })},
		{"state elsewhere", minimal + "state: /var/lib/robot/state.db\n", with(func(c *email.Config) { c.State = "/var/lib/robot/state.db" })},
		{"outbox elsewhere", minimal + "outbox: {file: /var/lib/robot/outbox.db, when-full: refuse}\n",
			with(func(c *email.Config) { c.Outbox.File = "/var/lib/robot/outbox.db" })},
		{"several servers", strings.Replace(minimal, "smtp.example.com", "[smtp.example.com, 'smtp+starttls://b.example.com:587', c.example.com]", 1),
			with(func(c *email.Config) {
				c.SMTPFallbacks = []string{"smtp+starttls://b.example.com:587", "c.example.com"}
			})},
		{"appended to a folder", strings.Replace(minimal, "smtp.example.com", "imaps://imap.example.com/Team/Robots", 1), with(func(c *email.Config) { c.SMTP = "imaps://imap.example.com/Team/Robots" })},
		{"listening", strings.Replace(minimal, "imap.example.com", "lmtp+unix:///run/robot.sock", 1) + "  listen:\n    recipients: [a@b.c, '@robots.example.com']\n",
			with(func(c *email.Config) {
				c.IMAP, c.ListenFor = "lmtp+unix:///run/robot.sock", []string{"a@b.c", "@robots.example.com"}
			})},
		{"people", minimal + "  people: [Alice <alice@example.org>, '@example.com']\n", with(func(c *email.Config) { c.People = []string{"alice@example.org", "@example.com"} })},
		{"one person", minimal + "  people: alice@example.org\n", with(func(c *email.Config) { c.People = []string{"alice@example.org"} })},
		{"flag skipped", minimal + "  skipped:\n    flag: $NotPostbus\n", with(func(c *email.Config) { c.SkippedFlag = "$NotPostbus" })},
		{"move skipped", minimal + "  skipped: {move: Übersprungen/2026}\n", with(func(c *email.Config) { c.SkippedFolder = "Übersprungen/2026" })},
		{"delete finished", minimal + "retention:\n  finished: delete\n  after: 168h\n  keep: 1000\n",
			with(func(c *email.Config) {
				c.Retention = email.Retention{Action: email.DeleteMessages, After: 168 * time.Hour, Keep: 1000}
			})},
		{"mark finished", minimal + "retention: {finished: seen, keep: 1}\n", with(func(c *email.Config) { c.Retention = email.Retention{Action: email.MarkSeen, Keep: 1} })},
		{"move finished", minimal + "retention: {finished: {move: Done}, after: 1h}\n",
			with(func(c *email.Config) {
				c.Retention = email.Retention{Action: email.MoveMessages, Folder: "Done", After: time.Hour}
			})},
		{"keep finished", minimal + "retention: {finished: keep}\n", bare},
		{"batches", minimal + "  batch: true\n", with(func(c *email.Config) { c.Batch.On = true })},
		{"no batches", minimal + "  batch: false\n", bare},
		{"batches of one's own", minimal + "  batch:\n    messages: 10\n    bytes: 2000\n    delay: 5ms\n",
			with(func(c *email.Config) {
				c.Batch = email.Batching{On: true, Messages: 10, Bytes: 2000, Delay: 5 * time.Millisecond}
			})},
		{"LMTP", strings.Replace(minimal, "smtp.example.com", "[lmtp+unix:///run/lmtp, 'lmtp+insecure://b.example.com']", 1),
			with(func(c *email.Config) {
				c.SMTP, c.SMTPFallbacks = "lmtp+unix:///run/lmtp", []string{"lmtp+insecure://b.example.com"}
			})},
		{"for rmw_email", minimal + "  compat: rmw_email\n", with(func(c *email.Config) { c.RMWEmail = true })},
		{"a route for rmw_email", minimal + "routes:\n- {compat: rmw_email, pattern: /a, to: x@b.c}\n- {pattern: />, to: y@b.c}\n",
			with(func(c *email.Config) {
				c.Routes = transport.Routes{{Pattern: "/a", To: []string{"x@b.c"}}, {Pattern: "/>", To: []string{"y@b.c"}}}
				c.RMWEmailRoutes = []string{"/a"}
			})},
	} {
		t.Run(test.name, func(t *testing.T) { parses(t, test.text, filepath.Join(folder, "email.yml"), test.want) })
	}
}

// parses parses the text of a file and wants a configuration.
func parses(t *testing.T, text, file string, want email.Config) {
	t.Helper()
	got, err := email.ParseConfig([]byte(text), file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// parsesNot parses the text of a file and wants an error that has something in it, and nothing secret.
func parsesNot(t *testing.T, text, file, want string) {
	t.Helper()
	_, err := email.ParseConfig([]byte(text), file)
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Fatalf("error %q, want %q in it", err, want)
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("the error shows a secret: %v", err)
	}
}

func TestParseConfigErrors(t *testing.T) {
	replace := func(old, new string) string { return strings.Replace(minimal, old, new, 1) }
	for _, test := range []struct{ name, text, want string }{
		{"empty", "", "c/email.yml: the file is empty"},
		{"two documents", minimal + "---\nemail: 1\n", "c/email.yml: there is more than one YAML document"},
		{"not YAML", "email: [", "c/email.yml: yaml: line 1"},
		{"not a mapping", "hello", "c/email.yml:1: this must be a section"},
		{"no email", "routes: []", "c/email.yml:1: email: this key is required"},
		{"unknown key", replace("password:", "pasword:"), "c/email.yml:6: email.user.pasword: unknown key; known here are url-smtp, "},
		{"unknown section", minimal + "emial: 1\n", "c/email.yml:7: emial: unknown key"},
		{"missing key", replace("    url-imap: imap.example.com\n", ""), "c/email.yml:3: email.user.url-imap: this key is required"},
		{"missing section", "email:\n  intraprocess: true\n", "c/email.yml:2: email.user: this key is required"},
		{"twice", minimal + "    password: other\n", "c/email.yml:7: email.user.password: this key is here twice"},
		{"section is a text", "email:\n  user: me\n", "c/email.yml:2: email.user: this must be a section"},
		{"text is a list", replace("secret", "[a]"), "c/email.yml:6: email.user.password: this must be a text"},
		{"text is empty", replace("secret", ""), "c/email.yml:6: email.user.password: this must be a text"},
		{"no password", replace("    password: secret\n", ""), "c/email.yml:3: email.user: exactly one of the keys password"},
		{"outbox without file", minimal + "outbox:\n  max-age: 1h\n", "c/email.yml:8: outbox.file: this key is required"},
		{"outbox for no time", minimal + "outbox:\n  file: x\n  max-age: 5\n", `c/email.yml:9: outbox.max-age: "5" is not a time`},
		{"outbox without room", minimal + "outbox:\n  file: x\n  max-bytes: 0\n", "c/email.yml:9: outbox.max-bytes: this must be greater than 0"},
		{"outbox with a strange policy", minimal + "outbox: {file: x, when-full: panic}\n", `c/email.yml:7: outbox.when-full: "panic" is not known; the values are refuse and drop-oldest`},
		{"two passwords", minimal + "    password-env: HOME\n", "c/email.yml:3: email.user: exactly one of the keys password"},
		{"password file missing", replace("password: secret", "password-file: nowhere"), "c/email.yml:6: email.user.password-file: open c/nowhere"},
		{"variable missing", replace("password: secret", "password-env: POSTBUS_TEST_NO_SUCH"), "c/email.yml:6: email.user.password-env: the environment variable POSTBUS_TEST_NO_SUCH is not set"},
		{"unknown scheme", replace("smtp.example.com", "http://smtp.example.com"), `c/email.yml:3: email.user.url-smtp: unknown scheme "http"; known are smtps, smtp+starttls, smtp+insecure,`},
		{"scheme of the other", replace("imap.example.com", "smtps://imap.example.com"), `c/email.yml:4: email.user.url-imap: unknown scheme "smtps"; known are imaps,`},
		{"URL with password", replace("smtp.example.com", "smtps://me:secret@smtp.example.com"), "c/email.yml:3: email.user.url-smtp: only a scheme, host and port"},
		{"URL with path", replace("smtp.example.com", "smtps://smtp.example.com/x"), "c/email.yml:3: email.user.url-smtp: only a scheme, host and port"},
		{"folder that can't be", replace("imap.example.com", "'imaps://imap.example.com/a*'"), `c/email.yml:4: email.user.url-imap: "a*" is not the name of a folder`},
		{"more than a folder", replace("imap.example.com", "'imaps://imap.example.com/a?b'"), "c/email.yml:4: email.user.url-imap: only a scheme, host, port and folder are allowed"},
		{"skipped to the folder that is watched", replace("imap.example.com", "imap.example.com/Robots") + "  skipped:\n    move: Robots\n", `c/email.yml:8: email.skipped.move: "Robots" is the folder that is watched`},
		{"retention to the folder that is watched", replace("imap.example.com", "imap.example.com/Robots") + "retention:\n  after: 1h\n  finished:\n    move: Robots\n", `c/email.yml:10: retention.finished.move: "Robots" is the folder that is watched`},
		{"appended and submitted", replace("smtp.example.com", "[imaps://imap.example.com/Robots, smtp.example.com]"), "c/email.yml:3: email.user.url-smtp: either all servers append"},
		{"submitted and appended", replace("smtp.example.com", "[smtp.example.com, imaps://imap.example.com]"), "c/email.yml:3: email.user.url-smtp: either all servers append"},
		{"listening and a state", replace("imap.example.com", "lmtp+unix:///run/robot.sock") + "state: s\n", "c/email.yml:7: state: this needs a mailbox, and email.user.url-imap says to listen"},
		{"listening and retention", replace("imap.example.com", "lmtp+insecure://127.0.0.1") + "retention:\n  finished: seen\n  keep: 1\n", "c/email.yml:8: retention: this needs a mailbox"},
		{"listening and skipped", replace("imap.example.com", "smtp+insecure://127.0.0.1") + "  skipped:\n    flag: x\n", "c/email.yml:8: email.skipped: this needs a mailbox"},
		{"not listening", minimal + "  listen:\n    recipients: a@b.c\n", "c/email.yml:8: email.listen: this is for a node that listens"},
		{"listening for nobody", minimal + "  listen:\n    recipients: [b]\n", `c/email.yml:8: email.listen.recipients[0]: "b" is not a mail address`},
		{"listening with TLS", replace("imap.example.com", "smtps://127.0.0.1"), `c/email.yml:4: email.user.url-imap: unknown scheme "smtps"; known are imaps, imap+starttls, imap+insecure, lmtp+unix, lmtp+insecure, smtp+insecure`},
		{"listening at no path", replace("imap.example.com", "lmtp+unix://robot.sock"), "c/email.yml:4: email.user.url-imap: the absolute path of a socket is required"},
		{"not a URL", replace("smtp.example.com", "'smtp example com'"), "c/email.yml:3: email.user.url-smtp: "},
		{"empty list of servers", replace("smtp.example.com", "[]"), "c/email.yml:3: email.user.url-smtp: this list is empty"},
		{"bad server in a list", replace("smtp.example.com", "[a, 'http://b']"), `c/email.yml:3: email.user.url-smtp[1]: unknown scheme "http"`},
		{"no address", replace("me@example.com", "me"), `c/email.yml:3: email.user.from: this key is required, because the user name "me" is not an address`},
		{"bad from", minimal + "    from: me\n", `c/email.yml:7: email.user.from: "me" is not a mail address`},
		{"bad recipient", minimal + "  recipients:\n    to: [a@b.c, nobody]\n", `c/email.yml:8: email.recipients.to[1]: "nobody" is not a mail address`},
		{"recipient is a section", minimal + "  recipients:\n    to: {a: b}\n", "c/email.yml:8: email.recipients.to: this must be a text"},
		{"period is a text", minimal + "  polling-period: 1s\n", "c/email.yml:7: email.polling-period: this must be a whole number"},
		{"period is negative", minimal + "  polling-period: -1\n", "c/email.yml:7: email.polling-period: this must be a whole number"},
		{"period is too large", minimal + "  polling-period: 99999999999999999999\n", "c/email.yml:7: email.polling-period: this must be a whole number"},
		{"not a boolean", minimal + "  intraprocess: maybe\n", "c/email.yml:7: email.intraprocess: this must be true or false"},
		{"no CA", minimal + "  tls:\n    ca-file: nowhere.pem\n", "c/email.yml:8: email.tls.ca-file: open c/nowhere.pem"},
		{"routes are a mapping", minimal + "routes:\n  /a: b@c.d\n", "c/email.yml:8: routes: this must be a list"},
		{"route without recipients", minimal + "routes:\n- pattern: /a\n", "c/email.yml:8: routes[0].to: this key is required"},
		{"route with no recipients", minimal + "routes:\n- pattern: /a\n  to: []\n", "c/email.yml:9: routes[0].to: this list is empty"},
		{"bad pattern", minimal + "routes:\n- {pattern: a b, to: a@b.c}\n", "c/email.yml:8: routes[0].pattern: invalid name"},
		{"person without address", minimal + "  people: [a@b.c, alice]\n", `c/email.yml:7: email.people[1]: "alice" is not a mail address`},
		{"people without domain", minimal + "  people: '@'\n", `c/email.yml:7: email.people: "@" is neither a mail address nor a domain`},
		{"people of a bad domain", minimal + "  people: '@a b'\n", `c/email.yml:7: email.people: "@a b" is neither`},
		{"skipped and nothing", minimal + "  skipped: {}\n", "c/email.yml:7: email.skipped: exactly one of the keys flag and move"},
		{"skipped and both", minimal + "  skipped: {flag: a, move: b}\n", "c/email.yml:7: email.skipped: exactly one of the keys flag and move"},
		{"skipped, bad flag", minimal + "  skipped:\n    flag: a b\n", `c/email.yml:8: email.skipped.flag: "a b" is not an IMAP keyword`},
		{"skipped, system flag", minimal + "  skipped: {flag: \\Deleted}\n", `c/email.yml:7: email.skipped.flag: "\\Deleted" is not an IMAP keyword`},
		{"skipped to the inbox", minimal + "  skipped: {move: Inbox}\n", `c/email.yml:7: email.skipped.move: "Inbox" is not the name of a folder`},
		{"skipped, unknown", minimal + "  skipped: {delete: true}\n", "c/email.yml:7: email.skipped.delete: unknown key; known here are flag, move"},
		{"retention without end", minimal + "retention: {finished: delete}\n", "c/email.yml:7: retention: after or keep is required"},
		{"retention, nothing to do", minimal + "retention: {after: 1h}\n", "c/email.yml:7: retention.finished: this key is required"},
		{"retention, unknown", minimal + "retention: {finished: burn, after: 1h}\n", `c/email.yml:7: retention.finished: "burn" is not known; the values are keep, seen, delete`},
		{"retention to the inbox", minimal + "retention: {finished: {move: inbox}, after: 1h}\n", `c/email.yml:7: retention.finished.move: "inbox" is not the name of a folder`},
		{"retention to nowhere", minimal + "retention: {finished: {}, after: 1h}\n", "c/email.yml:7: retention.finished.move: this key is required"},
		{"retention, no time", minimal + "retention: {finished: seen, after: 0s}\n", `c/email.yml:7: retention.after: "0s" is not a time greater than 0`},
		{"retention of none", minimal + "retention: {finished: seen, keep: 0}\n", "c/email.yml:7: retention.keep: "},
		{"batches, perhaps", minimal + "  batch: auto\n", "c/email.yml:7: email.batch: this must be true or false"},
		{"batches of nothing", minimal + "  batch:\n    messages: 0\n", "c/email.yml:8: email.batch.messages: this must be greater than 0"},
		{"batches of too much", minimal + "  batch:\n    messages: 5000\n", "c/email.yml:8: email.batch.messages: 5000 is not a number from 1 to 4096"},
		{"batches of too many bytes", minimal + "  batch:\n    bytes: 2000000\n", "c/email.yml:8: email.batch.bytes: 2000000 is not a number from 1 to 1048576"},
		{"batches that wait for ever", minimal + "  batch:\n    delay: 1h\n", "c/email.yml:8: email.batch.delay: 1h0m0s is not a time from 0 to 10s"},
		{"batches at no time", minimal + "  batch:\n    delay: 5\n", `c/email.yml:8: email.batch.delay: "5" is not a time, such as 5ms`},
		{"unknown compat", minimal + "  compat: rmw_smtp\n", `c/email.yml:7: email.compat: "rmw_smtp" is not known; the only value is rmw_email`},
		{"unknown compat of a route", minimal + "routes:\n- {pattern: /a, to: a@b.c}\n- pattern: /b\n  to: a@b.c\n  compat: true\n", `c/email.yml:11: routes[1].compat: "true" is not known`},
	} {
		t.Run(test.name, func(t *testing.T) { parsesNot(t, test.text, "c/email.yml", test.want) })
	}
	_, err := email.ParseConfig([]byte("email:\n  a: 1\n  b: 2\n"), "f")
	if err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("error %q, want all three mistakes in it", err)
	}
}

func TestFindConfig(t *testing.T) {
	folder, home := t.TempDir(), t.TempDir()
	t.Chdir(folder)
	t.Setenv("HOME", home)
	t.Setenv(email.ConfigEnv, "")
	if _, err := email.FindConfig(); !errors.Is(err, email.ErrNoConfig) || !strings.Contains(err.Error(), filepath.Join(home, "email.yml")) {
		t.Errorf("error %v", err)
	}
	for _, step := range []struct{ create, want string }{
		{filepath.Join(home, "email.yml"), filepath.Join(home, "email.yml")},
		{"email.yml", "email.yml"},
	} {
		if err := os.WriteFile(step.create, []byte(minimal), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := email.FindConfig(); err != nil || got != step.want {
			t.Errorf("found %q, %v, want %q", got, err, step.want)
		}
	}
	if c, err := email.LoadConfig("email.yml"); err != nil || c.Username != "me@example.com" {
		t.Errorf("loaded %+v, %v", c, err)
	}
	t.Setenv(email.ConfigEnv, "elsewhere.yml")
	path, err := email.FindConfig()
	if err != nil || path != "elsewhere.yml" {
		t.Errorf("found %q, %v", path, err)
	}
	if _, err := email.LoadConfig(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}
