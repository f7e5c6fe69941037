package nats_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/nats"
)

// works checks that a node can publish and receive.
func works(t *testing.T, c nats.Config) {
	t.Helper()
	node := openNode(t, c)
	sub, err := pubsub.NewSubscription(node, "t")
	check(t, err)
	pub, err := pubsub.NewPublisher(node, "t")
	check(t, err)
	check(t, pub.Publish(limited(t), []byte("x")))
	_, err = sub.Next(limited(t))
	check(t, err)
}

// isRefused checks that the server does not let a node in, offline or not, and that no password is in the error.
func isRefused(t *testing.T, c nats.Config) {
	t.Helper()
	for _, offline := range []bool{false, true} {
		carrier, err := nats.Open(limited(t), c, nats.Options{Logger: quiet, Offline: offline})
		if err == nil {
			check(t, carrier.Close(limited(t)))
			t.Fatal("the server has let it in")
		}
		if !errors.Is(err, transport.ErrRefused) || !strings.Contains(err.Error(), "127.0.0.1") || strings.Contains(err.Error(), "wrong") {
			t.Errorf("got the error %v", err)
		}
	}
}

func TestPassword(t *testing.T) {
	s := startServer(t, func(o *server.Options) { o.Username, o.Password = "robot", "secret" })
	c := config(s)
	c.User, c.Password = "robot", "secret"
	works(t, c)
	c.Password = "wrong"
	isRefused(t, c)
	works(t, nats.Config{Servers: []string{strings.Replace(s.ClientURL(), "nats://", "nats://robot:secret@", 1)}})
	isRefused(t, nats.Config{Servers: []string{strings.Replace(s.ClientURL(), "nats://", "nats://robot:wrong@", 1)}})
}

func TestToken(t *testing.T) {
	s := startServer(t, func(o *server.Options) { o.Authorization = "secret" })
	c := config(s)
	c.Token = "secret"
	works(t, c)
	c.Token = "wrong"
	isRefused(t, c)
	inURL := func(token, address string) nats.Config {
		return nats.Config{Servers: []string{"nats://" + token + "@" + address}}
	}
	works(t, inURL("secret", s.Addr().String()))
	isRefused(t, inURL("wrong", s.Addr().String()))

	var log bytes.Buffer
	options := nats.Options{Logger: slog.New(slog.NewTextHandler(&log, nil)), Offline: true}
	carrier, err := nats.Open(limited(t), inURL("secret", freeAddress(t)), options)
	check(t, err)
	check(t, carrier.Close(limited(t)))
	if text := log.String(); !strings.Contains(text, "no connection") || strings.Contains(text, "secret") {
		t.Errorf("the log says %s", text)
	}
}

// A server that is not on this computer gets a password or token by an encrypted connection alone, or if the configuration says
// so in so many words.
func TestSecretsAreEncrypted(t *testing.T) {
	clear := []string{"nats://192.0.2.1", "ws://192.0.2.1"}
	for _, servers := range [][]string{clear, {"tls://192.0.2.1", clear[0]}, {"nats://secret@192.0.2.1"}} {
		c := nats.Config{Servers: servers}
		if !strings.Contains(servers[0], "secret") {
			c.User, c.Password = "robot", "secret"
		}
		_, err := nats.Open(limited(t), c, nats.Options{})
		if err == nil || !strings.Contains(err.Error(), "without encryption") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%v: got the error %v", servers, err)
		}
	}
	for _, change := range []func(*nats.Config){
		func(c *nats.Config) { c.Insecure = true },
		func(c *nats.Config) { c.Servers = []string{"tls://192.0.2.1", "nats://localhost", "ws://[::1]:1"} },
	} {
		c := nats.Config{Servers: clear, Token: "secret"}
		change(&c)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := nats.Open(ctx, c, nats.Options{Logger: quiet}); !errors.Is(err, context.Canceled) {
			t.Errorf("%v: got the error %v", c.Servers, err)
		}
	}
}

// writeFile writes a secret to a file.
func writeFile(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	check(t, os.WriteFile(path, data, 0o600))
	return path
}

// newKey returns a key and its public half.
func newKey(t *testing.T, create func() (nkeys.KeyPair, error)) (key nkeys.KeyPair, public string) {
	t.Helper()
	key, err := create()
	check(t, err)
	public, err = key.PublicKey()
	check(t, err)
	return key, public
}

func seedFile(t *testing.T, key nkeys.KeyPair) string {
	t.Helper()
	seed, err := key.Seed()
	check(t, err)
	return writeFile(t, "user.nk", seed)
}

func TestNKey(t *testing.T) {
	key, public := newKey(t, nkeys.CreateUser)
	other, _ := newKey(t, nkeys.CreateUser)
	s := startServer(t, func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: public}} })
	c := config(s)
	c.NKey = seedFile(t, key)
	works(t, c)
	c.NKey = seedFile(t, other)
	isRefused(t, c)
	c.NKey = "missing.nk"
	if _, err := nats.Open(limited(t), c, nats.Options{}); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "nkey") {
		t.Errorf("without the file: %v", err)
	}
}

func TestCredentials(t *testing.T) {
	operator, operatorID := newKey(t, nkeys.CreateOperator)
	account, accountID := newKey(t, nkeys.CreateAccount)
	accountToken, err := jwt.NewAccountClaims(accountID).Encode(operator)
	check(t, err)
	credentials := func(by nkeys.KeyPair) string {
		user, userID := newKey(t, nkeys.CreateUser)
		token, err := jwt.NewUserClaims(userID).Encode(by)
		check(t, err)
		seed, err := user.Seed()
		check(t, err)
		text, err := jwt.FormatUserConfig(token, seed)
		check(t, err)
		return writeFile(t, "user.creds", text)
	}
	s := startServer(t, func(o *server.Options) {
		accounts := &server.MemAccResolver{}
		check(t, accounts.Store(accountID, accountToken))
		o.TrustedKeys, o.AccountResolver = []string{operatorID}, accounts
	})
	c := config(s)
	c.Credentials = credentials(account)
	works(t, c)
	stranger, _ := newKey(t, nkeys.CreateAccount)
	c.Credentials = credentials(stranger)
	isRefused(t, c)
}

// authority signs certificates.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	a.pem, _, a.cert, a.key = a.sign(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

// sign makes a certificate: by itself as long as there is none of the authority.
func (a *authority) sign(c *x509.Certificate) (cert, keyPEM []byte, parsed *x509.Certificate, key *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(a.t, err)
	c.SerialNumber, c.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: "test"}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, by := a.cert, a.key
	if parent == nil {
		parent, by = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, by)
	check(a.t, err)
	parsed, err = x509.ParseCertificate(der)
	check(a.t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	check(a.t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), parsed, key
}

func TestTLS(t *testing.T) {
	a := newAuthority(t)
	cert, key, _, _ := a.sign(&x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	pair, err := tls.X509KeyPair(cert, key)
	check(t, err)
	clients := x509.NewCertPool()
	clients.AddCert(a.cert)
	s := startServer(t, func(o *server.Options) {
		o.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert}
		o.TLSTimeout = 5
	})
	c := nats.Config{Servers: []string{"tls://" + s.Addr().String()}, CA: a.pem}
	c.Certificate, c.Key, _, _ = a.sign(&x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	works(t, c)

	fails := func(what string, c nats.Config) {
		t.Helper()
		if carrier, err := nats.Open(limited(t), c, nats.Options{Logger: quiet}); err == nil {
			check(t, carrier.Close(limited(t)))
			t.Errorf("%s: no error", what)
		}
	}
	without := c
	without.CA = nil
	fails("an unknown authority", without)
	without = c
	without.Certificate, without.Key = nil, nil
	fails("no certificate", without)
	plain := startServer(t, nil)
	c.Servers = []string{"tls://" + plain.Addr().String()}
	fails("a server without TLS", c)
	c.Servers = []string{plain.ClientURL()}
	fails("a server without TLS, when there is an authority to trust", c)
	fails("a server without TLS, by the URL alone", nats.Config{Servers: []string{"tls://" + plain.Addr().String()}})
}

func TestInboxPrefixAndPermissions(t *testing.T) {
	s := startServer(t, func(o *server.Options) {
		o.Users = []*server.User{{Username: "robot", Password: "secret", Permissions: &server.Permissions{
			Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX_robot.>", "u1.>", "$SRV.>"}},
		}}, {Username: "other", Password: "secret"}}
	})
	c := config(s)
	c.User, c.Password, c.InboxPrefix = "robot", "secret", "_INBOX_robot"
	node := openNode(t, c)
	if !strings.HasPrefix(node.Address(), "_INBOX_robot.") {
		t.Errorf("the address is %s", node.Address())
	}
	_, err := pubsub.NewSubscription(node, "u2.echo")
	if !errors.Is(err, transport.ErrRefused) || !strings.Contains(err.Error(), "u2.echo") {
		t.Errorf("subscribe to what is not allowed: %v", err)
	}
	serve(t, node, "u1.echo")
	callEcho(t, node)
}

func TestInProcess(t *testing.T) {
	s := startServer(t, func(o *server.Options) { o.DontListen = true })
	carrier, err := nats.Open(limited(t), nats.Config{}, nats.Options{InProcess: s, Logger: quiet})
	check(t, err)
	node, err := transport.NewNode(carrier, nil)
	check(t, err)
	defer closeNode(t, node)
	serve(t, node, "u1.echo")
	callEcho(t, node)
}

func TestInvalidConfig(t *testing.T) {
	valid := nats.Config{Servers: []string{"nats://127.0.0.1:1"}}
	for want, change := range map[string]func(*nats.Config){
		"servers: there are none":         func(c *nats.Config) { c.Servers = nil },
		"servers: \"http://x\" does":      func(c *nats.Config) { c.Servers = []string{"http://x"} },
		"servers: \"nats:///\" has":       func(c *nats.Config) { c.Servers = []string{"nats:///"} },
		"servers: a URL is not":           func(c *nats.Config) { c.Servers = []string{"nats://a b:secret@x"} },
		"name: \"a b\"":                   func(c *nats.Config) { c.Name = "a b" },
		"version: \"1\"":                  func(c *nats.Config) { c.Version = "1" },
		"inbox-prefix: \"a.>\"":           func(c *nats.Config) { c.InboxPrefix = "a.>" },
		"at most one":                     func(c *nats.Config) { c.User, c.Token = "a", "b" },
		"in the URL of a server: at most": func(c *nats.Config) { c.Servers, c.NKey = []string{"nats://secret@127.0.0.1"}, "a" },
		"\"http://x\" does not":           func(c *nats.Config) { c.Servers = []string{"http://secret@x"} },
		"inbox-prefix: it has":            func(c *nats.Config) { c.InboxPrefix = strings.Repeat("a", 300) },
		"max-payload: 1000; 1024 is":      func(c *nats.Config) { c.MaxPayload = 1000 },
		"max-payload: 1024; 65536 is":     func(c *nats.Config) { c.MaxPayload, c.Objects.Bucket = 1024, "b" },
		"there is no user":                func(c *nats.Config) { c.Password = "secret" },
		"ca: there is no":                 func(c *nats.Config) { c.CA = []byte("x") },
		"certificate, key: ":              func(c *nats.Config) { c.Certificate = []byte("x") },
	} {
		c := valid
		change(&c)
		_, err := nats.Open(limited(t), c, nats.Options{})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("got the error %v, want one with %q", err, want)
		}
	}
}
