package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long anything may take that does not fail.
const patience = 10 * time.Second

// bench is a proxy in front of a server that a test plays itself.
type bench struct {
	*testing.T
	*Proxy
	listener net.Listener
}

func newBench(t *testing.T) *bench {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p, err := Listen(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = listener.Close()
		if err := errors.Join(p.Close(), p.Close()); err != nil {
			t.Error(err)
		}
	})
	return &bench{t, p, listener}
}

// connect returns both ends of a connection through the proxy.
func (b *bench) connect() (client, server *net.TCPConn) {
	b.Helper()
	c, err := net.Dial("tcp", b.Addr())
	if err != nil {
		b.Fatal(err)
	}
	s, err := b.listener.Accept()
	if err != nil {
		b.Fatal(err)
	}
	for _, conn := range []net.Conn{c, s} {
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { conn.Close() })
	}
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

func (b *bench) write(to net.Conn, text string) {
	b.Helper()
	if _, err := io.WriteString(to, text); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) want(from net.Conn, text string) {
	b.Helper()
	got := make([]byte, len(text))
	if _, err := io.ReadFull(from, got); err != nil || string(got) != text {
		b.Fatalf("got %q, %v; want %q", got, err, text)
	}
}

// wantEnd wants nothing more to come.
func (b *bench) wantEnd(from net.Conn) {
	b.Helper()
	rest, err := io.ReadAll(from)
	if len(rest) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
		b.Fatalf("got %q, %v; want the end", rest, err)
	}
}

func TestPassesOn(t *testing.T) {
	b := newBench(t)
	client, server := b.connect()
	b.write(client, "hello")
	b.want(server, "hello")
	b.write(server, "welcome")
	b.want(client, "welcome")
	if open, total := b.Connections(); open != 1 || total != 1 {
		t.Errorf("%d of %d connections are open", open, total)
	}
	client.CloseWrite()
	b.wantEnd(server)
	b.write(server, "bye")
	server.Close()
	b.want(client, "bye")
	b.wantEnd(client)
	if b.Passed(ToServer) != 5 || b.Passed(ToClient) != 10 {
		t.Errorf("%d and %d bytes were passed on", b.Passed(ToServer), b.Passed(ToClient))
	}
}

func TestLarge(t *testing.T) {
	b := newBench(t)
	client, server := b.connect()
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	var writing sync.WaitGroup
	defer writing.Wait()
	writing.Go(func() {
		client.Write(data)
		client.CloseWrite()
	})
	if got, err := io.ReadAll(server); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes came, %v", len(got), err)
	}
}

func TestCut(t *testing.T) {
	b := newBench(t)
	client, server := b.connect()
	b.write(client, "x")
	b.want(server, "x")
	b.Cut()
	b.wantEnd(client)
	b.wantEnd(server)
	client, server = b.connect()
	b.write(server, "x")
	b.want(client, "x")
	b.Cut()
	b.wantEnd(client)
}

func TestCutAfter(t *testing.T) {
	for _, d := range []Direction{ToServer, ToClient} {
		for n := range 6 {
			b := newBench(t)
			client, server := b.connect()
			from, to := client, server
			if d == ToClient {
				from, to = server, client
			}
			b.write(from, "before")
			b.want(to, "before")
			b.CutAfter(d, int64(n))
			b.write(from, "hello")
			b.want(to, "hello"[:n])
			b.wantEnd(to)
			b.wantEnd(from)
			if got := b.Passed(d); got != int64(6+n) {
				t.Errorf("%d bytes were passed on, want %d", got, 6+n)
			}
			client, server = b.connect() // once only
			b.write(client, "hello")
			b.want(server, "hello")
		}
	}
}

func TestHalfClose(t *testing.T) {
	b := newBench(t)
	client, server := b.connect()
	b.write(client, "x")
	b.want(server, "x")
	b.HalfClose(ToServer)
	b.wantEnd(server)
	b.write(server, "still here")
	b.want(client, "still here")
}

func TestHold(t *testing.T) {
	b := newBench(t)
	client, server := b.connect()
	b.Set(ToServer, Rule{Hold: true})
	b.write(client, "hello")
	b.write(server, "other way")
	b.want(client, "other way")
	if err := server.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := server.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Fatalf("%d bytes came through, %v", n, err)
	}
	if err := server.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	b.Heal()
	b.want(server, "hello")

	b.Set(ToServer, Rule{Hold: true})
	b.write(client, "lost")
	b.Cut()
	b.wantEnd(server)
}

func TestHoldAfter(t *testing.T) {
	b := newBench(t)
	client, server := b.connect()
	b.HoldAfter(ToServer, 3)
	b.write(client, "hello")
	b.want(server, "hel")
	if got := b.Passed(ToServer); got != 3 {
		t.Errorf("%d bytes were passed on, want 3", got)
	}
	b.write(server, "other way")
	b.want(client, "other way")
	b.Heal()
	b.want(server, "lo")
}

func TestSlow(t *testing.T) {
	for name, test := range map[string]struct {
		rule Rule
		text string
		min  time.Duration
	}{
		"delay":  {Rule{Delay: 30 * time.Millisecond}, "hello", 30 * time.Millisecond},
		"pieces": {Rule{Piece: 1}, "hello, world", 0},
		"rate":   {Rule{Rate: 1000}, string(make([]byte, 100)), 95 * time.Millisecond},
		"all":    {Rule{Delay: 5 * time.Millisecond, Piece: 2, Rate: 1000}, "0123456789", 25 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.Set(ToServer, test.rule)
			client, server := b.connect()
			began := time.Now()
			b.write(client, test.text)
			b.want(server, test.text)
			if took := time.Since(began); took < test.min {
				t.Errorf("it took %v, want %v", took, test.min)
			}
		})
	}
}

func TestRefuse(t *testing.T) {
	b := newBench(t)
	b.Refuse(true)
	b.wantRefused()
	b.Refuse(false)
	again, server := b.connect()
	b.write(again, "x")
	b.want(server, "x")
}

// A server that does not listen is passed on as such.
func TestNoServer(t *testing.T) {
	b := newBench(t)
	if err := b.listener.Close(); err != nil {
		t.Fatal(err)
	}
	b.wantRefused()
}

// wantRefused wants a new connection to end at once: either it can't be made or it is closed.
func (b *bench) wantRefused() {
	b.Helper()
	client, err := net.Dial("tcp", b.Addr())
	if err != nil {
		if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.ECONNREFUSED) {
			b.Fatal(err)
		}
		return
	}
	defer client.Close()
	b.wantEnd(client)
}
