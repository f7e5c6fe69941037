package bench

import (
	"sync/atomic"
	"testing"
)

// Commands are counted, and nothing else, however the bytes are cut.
func TestCommandCounter(t *testing.T) {
	for _, c := range []struct {
		imap bool
		said string
		want uint64
	}{
		{false, "EHLO x\r\nAUTH LOGIN\r\ndXNlcg==\r\nc2VjcmV0\r\nMAIL FROM:<a@b>\r\nRCPT TO:<a@b>\r\nDATA\r\nSubject: x\r\n\r\nMAIL FROM:<x>\r\n..\r\n.\r\nquit\r\n", 6},
		{false, "MAIL FROM:<a@b>\r\nRCPT TO:<a@b>\r\nBDAT 12 LAST\r\nRCPT TO:\r\n\r\nMAIL FROM:<a@b>\r\nBDAT 6\r\nRSET\r\nBDAT 0 LAST\r\n", 6},
		{true, "a LOGIN \"x\" {2}\r\nyz\r\nb IDLE\r\nDONE\r\nc UID FETCH 1:9 (UID)\r\nd APPEND INBOX {8+}\r\nx NOOP\r\n\r\ne NOOP\r\n", 5},
	} {
		for piece := 1; piece <= len(c.said); piece++ {
			var said atomic.Uint64
			counter := &commandCounter{imap: c.imap, said: &said}
			for rest := c.said; rest != ""; {
				n := min(piece, len(rest))
				if _, err := counter.Write([]byte(rest[:n])); err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
			}
			if said.Load() != c.want {
				t.Fatalf("%d commands in pieces of %d, want %d:\n%s", said.Load(), piece, c.want, c.said)
			}
		}
	}
}
