package wire

import (
	"strings"
	"testing"

	"github.com/postbus/postbus/transport"
)

// docs/wire-format.md promises these sizes for messages with 128 bytes of payload.
func TestSmallMessagesMakeSmallMails(t *testing.T) {
	const most = 900
	text := strings.Repeat("0123456789abcde\n", 8)
	binary := strings.Repeat("\x00\xff", 64)
	utf8 := strings.Repeat("ü", 64)
	e := Envelope{From: "robot-17@robots.example.org", To: []string{"base-station@example.org"}}
	largest := 0
	for _, body := range []string{text, binary, utf8} {
		for _, contentType := range []string{"", "text/plain; charset=utf-8", "application/json", "application/x-protobuf"} {
			for _, m := range []*transport.Message{topic(""), request(), response()} {
				m.Name, m.Body, m.ContentType = "/robot_17/camera/front/status", []byte(body), contentType
				const number = 999_999
				m.Info.Sequence = number
				m.ID = transport.NewID(m.Info.PublisherGID, number, "robots.example.org")
				if m.Kind != transport.TopicMessage {
					m.Info.RequestSequence = number
				}
				if !m.InReplyTo.IsZero() {
					m.InReplyTo = transport.NewID(client, number, "robots.example.org")
				}
				size := len(mustEncode(t, m, e))
				t.Logf("%-13s %-25s %.8q: %d bytes", m.Kind, contentType, body, size)
				if size > most {
					t.Errorf("%s of type %q has %d bytes, more than %d", m.Kind, contentType, size, most)
				}
				largest = max(largest, size)
			}
		}
	}
	if largest < most-10 {
		t.Errorf("the largest has %d bytes: promise less", largest)
	}
}
