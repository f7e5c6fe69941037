package email_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postbus/postbus/email"
)

// natsFull has every key of the section.
const natsFull = `nats:
  servers: [nats://a.example.com, 'tls://b.example.com:4223']
  name: robot
  version: 1.2.3-rc.1
  description: Drives about
  inbox-prefix: _INBOX_robot.a
  max-payload: 65536
  user: robot
  password-file: password
  insecure: True
  tls:
    ca-file: ca.pem
    cert-file: cert.pem
    key-file: key.pem
  streams:
  - name: ORDERS
    names: [/orders/>, 'jobs.*']
    storage: memory
    replicas: 3
    max-age: 720h
    max-bytes: 5000000000
    max-messages: 10
    duplicates: 10m
  - {name: AUDIT, names: audit.>}
  objects: {bucket: bodies, max-age: 48h, max-bytes: 6000000000, storage: file, replicas: 1}
  cache: {bucket: results, max-bytes: 1000000, storage: memory, replicas: 5}
`

// natsFolder returns a folder with the files that the tests refer to.
func natsFolder(t *testing.T) string {
	folder := t.TempDir()
	for name, content := range map[string]string{
		"password": "from a file\n", "empty": "\n", "ca.pem": "CA", "cert.pem": "CERT", "key.pem": "KEY", "robot.creds": "CREDS", "robot.nk": "SU",
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

func TestParseConfigNATS(t *testing.T) {
	t.Setenv("POSTBUS_TEST_SECRET", "from the environment")
	folder := natsFolder(t)
	local := email.NATS{Servers: []string{"nats://localhost:4222"}}
	with := func(change func(*email.NATS)) email.Config {
		c := local
		change(&c)
		return email.Config{NATS: c}
	}
	const servers = "nats:\n  servers: nats://localhost:4222\n"
	for _, test := range []struct {
		name, text string
		want       email.Config
	}{
		{"a URL", "nats: nats://localhost:4222\n", email.Config{NATS: local}},
		{"one server", servers, email.Config{NATS: local}},
		{"a password in the URL", "nats: nats://me:it@localhost\n", with(func(c *email.NATS) { c.Servers = []string{"nats://me:it@localhost"} })},
		{"everything", natsFull, email.Config{NATS: email.NATS{
			Servers: []string{"nats://a.example.com", "tls://b.example.com:4223"},
			Name:    "robot", Version: "1.2.3-rc.1", Description: "Drives about", InboxPrefix: "_INBOX_robot.a", MaxPayload: 65536,
			User: "robot", Password: "from a file", Insecure: true, CA: []byte("CA"), Certificate: []byte("CERT"), Key: []byte("KEY"),
			Streams: []email.NATSStream{
				{Name: "ORDERS", Names: []string{"/orders/>", "jobs.*"}, Storage: "memory", Replicas: 3, MaxAge: 720 * time.Hour, MaxBytes: 5e9, MaxMessages: 10, Duplicates: 10 * time.Minute},
				{Name: "AUDIT", Names: []string{"audit.>"}},
			},
			Objects: email.NATSBucket{Bucket: "bodies", MaxAge: 48 * time.Hour, MaxBytes: 6e9, Storage: "file", Replicas: 1},
			Cache:   email.NATSBucket{Bucket: "results", MaxBytes: 1e6, Storage: "memory", Replicas: 5},
		}}},
		{"token variable", servers + "  token-env: POSTBUS_TEST_SECRET\n", with(func(c *email.NATS) { c.Token = "from the environment" })},
		{"token file", servers + "  token-file: password\n", with(func(c *email.NATS) { c.Token = "from a file" })},
		{"token", servers + "  token: 0123\n", with(func(c *email.NATS) { c.Token = "0123" })},
		{"password", servers + "  user: me\n  password: it\n", with(func(c *email.NATS) { c.User, c.Password = "me", "it" })},
		{"credentials", servers + "  credentials: robot.creds\n", with(func(c *email.NATS) { c.Credentials = filepath.Join(folder, "robot.creds") })},
		{"nkey", servers + "  nkey: " + filepath.Join(folder, "robot.nk") + "\n", with(func(c *email.NATS) { c.NKey = filepath.Join(folder, "robot.nk") })},
		{"outbox and limits", "nats: nats://localhost:4222\noutbox: {file: /o.db}\nlimits: {max-body: 7}\n",
			email.Config{NATS: local, Outbox: email.Outbox{File: "/o.db"}, MaxBody: 7}},
		{"beside a mail account", minimal + "nats: nats://localhost:4222\n",
			email.Config{SMTP: "smtp.example.com", IMAP: "imap.example.com", Username: "me@example.com", Password: "secret", NATS: local}},
	} {
		t.Run(test.name, func(t *testing.T) { parses(t, test.text, filepath.Join(folder, "email.yml"), test.want) })
	}
}

func TestParseConfigNATSErrors(t *testing.T) {
	folder := natsFolder(t)
	file := filepath.Join(folder, "email.yml")
	const servers = "nats:\n  servers: nats://localhost:4222\n"
	stream := func(keys string) string { return servers + "  streams:\n  - name: S\n    names: /a\n" + keys }
	for _, test := range []struct{ name, text, want string }{
		{"neither mail nor NATS", "outbox: {file: x}\n", ":1: email: this key is required"},
		{"nothing", "nats:\n", ":1: nats: this must be the URL of a server, such as nats://localhost:4222, or a mapping with the key servers"},
		{"a list", "nats: [nats://localhost]\n", ":1: nats: this must be the URL of a server, such as nats://localhost:4222, or a mapping"},
		{"an empty text", "nats: ''\n", ":1: nats: this must be the URL of a server"},
		{"no server", "nats:\n  name: a\n", ":2: nats.servers: this key is required"},
		{"no servers", "nats:\n  servers: []\n", ":2: nats.servers: this list is empty"},
		{"a host", "nats: localhost\n", `:1: nats: "localhost" does not begin with nats://, tls://, ws:// or wss://`},
		{"another scheme", "nats:\n  servers: [nats://a, 'http://me:secret@b']\n", `:2: nats.servers[1]: "http://b" does not begin with nats://`},
		{"a token in another URL", "nats: http://secret@b\n", `:1: nats: "http://b" does not begin with nats://`},
		{"a token and a query", "nats: nats://secret@b?x\n", `:1: nats: "nats://b?x" is not the URL of a server`},
		{"no URL", "nats: 'nats://me:secret@a b'\n", ":1: nats: this is not a URL, such as nats://localhost:4222"},
		{"insecure", servers + "  insecure: maybe\n", ":3: nats.insecure: this must be true or false"},
		{"no host", "nats: nats://\n", ":1: nats: \"nats:\" is not the URL of a server"},
		{"unknown key", servers + "  server: nats://b\n", ":3: nats.server: unknown key; known here are servers, name, version,"},
		{"name", servers + "  name: my robot\n", `:3: nats.name: "my robot" is not letters, digits, _ and -`},
		{"version", servers + "  version: v1\n", `:3: nats.version: "v1" is not three numbers, as in 1.0.0`},
		{"inbox", servers + "  inbox-prefix: _INBOX.>\n", `:3: nats.inbox-prefix: "_INBOX.>" is not tokens of`},
		{"payload", servers + "  max-payload: 0\n", ":3: nats.max-payload: this must be greater than 0"},
		{"user alone", servers + "  user: me\n", ":2: nats: user and password belong together"},
		{"password alone", servers + "  password: secret\n", ":2: nats: user and password belong together"},
		{"two passwords", servers + "  user: me\n  password: secret\n  password-file: password\n", ":5: nats.password-file: at most one of the keys password, password-file and password-env is possible"},
		{"two identities", servers + "  token: secret\n  nkey: robot.nk\n", ":2: nats: at most one of user, token, credentials and nkey is possible"},
		{"missing token file", servers + "  token-file: nowhere\n", ":3: nats.token-file: open " + filepath.Join(folder, "nowhere")},
		{"empty token file", servers + "  token-file: empty\n", ":3: nats.token-file: the file empty is empty"},
		{"missing variable", servers + "  token-env: POSTBUS_TEST_NO_SUCH\n", ":3: nats.token-env: the environment variable POSTBUS_TEST_NO_SUCH is not set"},
		{"missing credentials", servers + "  credentials: nowhere\n", ":3: nats.credentials: open " + filepath.Join(folder, "nowhere")},
		{"missing authority", servers + "  tls:\n    ca-file: nowhere\n", ":4: nats.tls.ca-file: open " + filepath.Join(folder, "nowhere")},
		{"certificate alone", servers + "  tls: {cert-file: cert.pem}\n", ":2: nats: tls.cert-file and tls.key-file belong together"},
		{"streams are a mapping", servers + "  streams: {name: S}\n", ":3: nats.streams: this must be a list"},
		{"stream without names", servers + "  streams:\n  - name: S\n", ":4: nats.streams[0].names: this key is required"},
		{"stream of all", servers + "  streams:\n  - {name: S, names: '>'}\n", `:4: nats.streams[0].names: ">" is not possible`},
		{"stream of any first token", servers + "  streams:\n  - {name: S, names: [/a, '*.x']}\n", `:4: nats.streams[0].names[1]: "*.x" is not possible`},
		{"stream of a name twice", servers + "  streams:\n  - {name: S, names: [a.b, a.b]}\n", `:4: nats.streams[0].names[1]: "a.b" is here twice`},
		{"stream of no name", servers + "  streams:\n  - {name: S, names: [/a, 'a b']}\n", ":4: nats.streams[0].names[1]: invalid name"},
		{"stream with a strange name", servers + "  streams:\n  - {name: S.1, names: /a}\n", `:4: nats.streams[0].name: "S.1" is not 1 to 64 of A-Z a-z 0-9 _ -`},
		{"stream twice", stream("  - name: S\n    names: /b\n"), ":6: nats.streams[1].name: the stream S is here twice"},
		{"storage", stream("    storage: disk\n"), `:6: nats.streams[0].storage: "disk" is not known; the values are file and memory`},
		{"replicas", stream("    replicas: 6\n"), ":6: nats.streams[0].replicas: 6 is not a number from 1 to 5"},
		{"no replicas", stream("    replicas: 0\n"), ":6: nats.streams[0].replicas: 0 is not a number from 1 to 5"},
		{"age", stream("    max-age: 5\n"), `:6: nats.streams[0].max-age: "5" is not a time greater than 0`},
		{"bytes", stream("    max-bytes: 0\n"), ":6: nats.streams[0].max-bytes: this must be greater than 0"},
		{"messages", stream("    max-messages: many\n"), ":6: nats.streams[0].max-messages: this must be a whole number"},
		{"duplicates", stream("    max-age: 1m\n    duplicates: 2m\n"), ":7: nats.streams[0].duplicates: 2m0s is longer than max-age, 1m0s"},
		{"objects without a bucket", servers + "  objects: {max-age: 1h}\n", ":3: nats.objects.bucket: this key is required"},
		{"objects, unknown", servers + "  objects: {bucket: b, age: 1h}\n", ":3: nats.objects.age: unknown key; known here are bucket, storage, replicas, max-bytes, max-age"},
		{"cache with an age", servers + "  cache: {bucket: b, max-age: 1h}\n", ":3: nats.cache.max-age: unknown key; known here are bucket, storage, replicas, max-bytes"},
		{"bucket", servers + "  cache: {bucket: a b}\n", `:3: nats.cache.bucket: "a b" is not 1 to 64 of`},
		{"in process", strings.Replace(minimal, "email:", "email:\n  intraprocess: true", 1) + "nats: nats://localhost\n", ":8: nats: email.intraprocess says that messages stay in the process"},
		{"with a wrong account", strings.Replace(minimal, "me@", "me", 1) + "nats: nats://localhost\n", ":3: email.user.from: this key is required"},
	} {
		t.Run(test.name, func(t *testing.T) { parsesNot(t, test.text, file, file+test.want) })
	}
}

// A file that only knows NATS makes no mail carrier.
func TestOpenMailWithoutAnAccount(t *testing.T) {
	c, err := email.ParseConfig([]byte("nats: nats://localhost\n"), "email.yml")
	if err != nil {
		t.Fatal(err)
	}
	if carrier, err := email.Open(t.Context(), c, email.Options{}); err == nil || !strings.Contains(err.Error(), "email.user") {
		t.Errorf("%v, %v", carrier, err)
	}
}
