package email

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/emersion/go-smtp"
)

// readerConn is a connection from which there is only something to read.
type readerConn struct {
	net.Conn
	io.Reader
}

func (c readerConn) Read(b []byte) (int, error)      { return c.Reader.Read(b) }
func (c readerConn) Write(b []byte) (int, error)     { return len(b), nil }
func (c readerConn) SetReadDeadline(time.Time) error { return nil }

// hear returns the replies in what a server sends, and what ends them.
func hear(r io.Reader) (replies []smtp.SMTPError, err error) {
	d := newDialogue(readerConn{Reader: r})
	for {
		reply, err := d.reply(time.Minute)
		if err != nil {
			return replies, err
		}
		replies = append(replies, *reply)
	}
}

func TestReply(t *testing.T) {
	for _, test := range []struct {
		sent string
		want []smtp.SMTPError
		err  string
	}{
		{"250 ok\r\n354 go on\r\n", []smtp.SMTPError{{Code: 250, Message: "ok"}, {Code: 354, Message: "go on"}}, "EOF"},
		{"250\r\n250 \r\n250-\r\n250\n", []smtp.SMTPError{{Code: 250}, {Code: 250}, {Code: 250, Message: "\n"}}, "EOF"},
		{"550-5.1.1 who\r\n550-5.1.1 is\r\n550 5.1.1 it?\r\n", []smtp.SMTPError{{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "who\nis\nit?"}}, "EOF"},
		{"550 5.1 a\r\n551 5.x.1 a\r\n552 5.1.1\r\n553 -5.1.1 a\r\n", []smtp.SMTPError{{Code: 550, Message: "5.1 a"}, {Code: 551, Message: "5.x.1 a"},
			{Code: 552, EnhancedCode: smtp.EnhancedCode{5, 1, 1}}, {Code: 553, Message: "-5.1.1 a"}}, "EOF"},
		{"999 what\r\n", []smtp.SMTPError{{Code: 999, Message: "what"}}, "EOF"},
		{"250 o", nil, "unexpected EOF"},
		{"250-a\r\n", nil, "EOF"},
		{"250-a\r\n251 b\r\n", nil, `"251 b"`},
		{"\r\n", nil, `""`},
		{"25 a\r\n", nil, `"25 a"`},
		{"2500 a\r\n", nil, `"2500 a"`},
		{"099 a\r\n", nil, `"099 a"`},
		{"yes\r\n", nil, `"yes"`},
		{"250 " + strings.Repeat("x", maxReplyLine), nil, "2048 bytes"},
		{strings.Repeat("250-"+strings.Repeat("x", 1000)+"\r\n", 200), nil, "131072 bytes"},
	} {
		for name, r := range map[string]io.Reader{
			"at once":       strings.NewReader(test.sent),
			"byte by byte":  iotest.OneByteReader(strings.NewReader(test.sent)),
			"with its end":  iotest.DataErrReader(strings.NewReader(test.sent)),
			"half by half":  iotest.HalfReader(strings.NewReader(test.sent)),
			"after a while": iotest.DataErrReader(iotest.OneByteReader(strings.NewReader(test.sent))),
		} {
			got, err := hear(r)
			if !reflect.DeepEqual(got, test.want) || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%.40q %s: %+v, %v, want %+v, %s", test.sent, name, got, err, test.want, test.err)
			}
		}
	}
}

// TestLineByLine: go-smtp's client gets nothing that it has not asked for, so that what it leaves is there for us.
func TestLineByLine(t *testing.T) {
	d := newDialogue(readerConn{Reader: strings.NewReader("250-a\r\n250 b\r\n354 c\r\n250 d\r\n")})
	buffer := make([]byte, 4096)
	for _, want := range []string{"250-a\r\n", "250 b\r\n"} {
		if n, err := d.Read(buffer); err != nil || string(buffer[:n]) != want {
			t.Errorf("read %q, %v, want %q", buffer[:n], err, want)
		}
	}
	if reply, err := d.reply(time.Minute); err != nil || reply.Code != 354 {
		t.Errorf("reply %v, %v", reply, err)
	}
	for _, want := range []string{"25", "0 ", "d\r", "\n"} {
		if n, err := d.Read(buffer[:2]); err != nil || string(buffer[:n]) != want {
			t.Errorf("read %q, %v, want %q", buffer[:n], err, want)
		}
	}
}

// FuzzReply: what is understood does not depend on how it is divided on its way, and its length is limited.
func FuzzReply(f *testing.F) {
	f.Add([]byte("250-a\r\n250 b\r\n354 go\r\n550 5.1.1 no\r\n"), 3)
	f.Add([]byte("250\n\r\n450-4.2.1 x\r\n450 4.2.1 \xff"), 1)
	f.Fuzz(func(t *testing.T, sent []byte, piece int) {
		want, wantErr := hear(bytes.NewReader(sent))
		got, err := hear(&pieces{sent, max(1, piece%5000)})
		if !reflect.DeepEqual(got, want) || fmt.Sprint(err) != fmt.Sprint(wantErr) {
			t.Errorf("in pieces %+v, %v; at once %+v, %v", got, err, want, wantErr)
		}
		read := 0
		for _, reply := range want {
			read += len(reply.Message)
		}
		if read > maxReply {
			t.Errorf("%d bytes were read", read)
		}
	})
}

// pieces is a reader of pieces of a size.
type pieces struct {
	left []byte
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.left) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.left[:min(p.size, len(p.left))])
	p.left = p.left[n:]
	return n, nil
}
