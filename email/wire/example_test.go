package wire_test

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/postbus/postbus/email/wire"
	"github.com/postbus/postbus/transport"
)

func Example() {
	gid, _ := transport.ParseGID("3f2a0c119b544de08a61771e42d00b95")
	message := &transport.Message{
		Kind: transport.TopicMessage,
		Name: "/chatter",
		Body: []byte("hello\nworld"),
		ID:   transport.NewID(gid, 1, "robot.example.org"),
		Info: transport.Info{SourceTime: time.Unix(1795261467, 52926400), PublisherGID: gid, Sequence: 1},
	}
	mail, err := wire.Encode(message, wire.Envelope{From: "Robot <robot@example.org>", To: []string{"base@example.org"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(strings.ReplaceAll(string(mail), "\r\n", "\n"))

	received, err := wire.Decode(mail)
	fmt.Printf("%s from %s: %q %v\n", received.Name, received.From, received.Body, err)
	// Output:
	// From: "Robot" <robot@example.org>
	// To: base@example.org
	// Subject: /chatter
	// Date: Sat, 21 Nov 2026 11:44:27 +0000
	// Message-ID: <1.3f2a0c119b544de08a61771e42d00b95@robot.example.org>
	// References: <topic.c62c58c10f441a60@postbus.invalid>
	// Auto-Submitted: auto-generated
	// Source-Timestamp: 1795261467052926400
	// Publisher-GID: 3f2a0c119b544de08a61771e42d00b95
	// Publisher-Sequence-Number: 1
	// MIME-Version: 1.0
	// Content-Type: text/plain; charset=utf-8
	// Content-Transfer-Encoding: 7bit
	// Body-Line-Ending: lf; final=0
	//
	// hello
	// world
	//
	// /chatter from robot@example.org: "hello\nworld" <nil>
}

// Several messages travel as one mail.
func ExampleBatch() {
	gid, _ := transport.ParseGID("3f2a0c119b544de08a61771e42d00b95")
	envelope := wire.Envelope{From: "robot@example.org", To: []string{"base@example.org"}}
	batch, err := wire.NewBatch(transport.NewID(gid, 1000, "robot.example.org"), envelope, 60<<10)
	if err != nil {
		fmt.Println(err)
		return
	}
	for i, word := range []string{"one", "two"} {
		err := batch.Add(&transport.Message{
			Kind: transport.TopicMessage,
			Name: "/chatter",
			Body: []byte(word),
			ID:   transport.NewID(gid, uint64(i+1), "robot.example.org"),
			Info: transport.Info{SourceTime: time.Unix(1795261467, 52926400), PublisherGID: gid, Sequence: uint64(i + 1)},
		})
		if errors.Is(err, wire.ErrBatchFull) {
			break // it goes with the next
		} else if err != nil {
			fmt.Println(err)
			return
		}
	}
	mail := batch.Mail()

	_, err = wire.Decode(mail)
	fmt.Println(err)
	messages, err := wire.DecodeBatch(mail)
	if err != nil {
		fmt.Println(err)
		return
	}
	for m, err := range messages {
		if err != nil {
			fmt.Println(err) // this one is lost, the others are not
			continue
		}
		fmt.Printf("%s from %s: %q, %s\n", m.Name, m.From, m.Body, m.ID)
	}
	// Output:
	// a batch of postbus messages
	// /chatter from robot@example.org: "one", 1.3f2a0c119b544de08a61771e42d00b95@robot.example.org
	// /chatter from robot@example.org: "two", 2.3f2a0c119b544de08a61771e42d00b95@robot.example.org
}

func ExampleDecode_foreign() {
	_, err := wire.Decode([]byte("From: Alice <alice@example.org>\r\nSubject: Lunch?\r\n\r\nAt noon?\r\n"))
	fmt.Println(errors.Is(err, wire.ErrForeign), err)
	// Output: true not a postbus message: it has none of our header fields
}

// The same message for rmw_email, which reads nothing but what follows its own rules.
func ExampleEncodeRMW() {
	gid, _ := transport.ParseGID("3f2a0c119b544de08a61771e42d00b95")
	message := &transport.Message{
		Kind: transport.TopicMessage,
		Name: "/chatter",
		Body: []byte("data: hello"),
		ID:   transport.NewID(gid, 1, "robot.example.org"),
		Info: transport.Info{SourceTime: time.Unix(1795261467, 52926400), PublisherGID: gid, Sequence: 1},
	}
	mail, err := wire.EncodeRMW(message, wire.Envelope{From: "Robot <robot@example.org>", To: []string{"base@example.org"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	for line := range strings.SplitSeq(string(mail), "\r\n") {
		fmt.Println(strings.TrimRight(line, " "))
	}
	fmt.Println("8-bit:", wire.Is8Bit(mail))

	message.Body = []byte{0}
	_, err = wire.EncodeRMW(message, wire.Envelope{From: "robot@example.org"})
	fmt.Println(errors.Is(err, transport.ErrNotSupported))
	// Output:
	// Publisher-GID: 1120930709
	// Source-Timestamp: 1795261467052926400
	// In-Reply-To:
	// References:
	// To: base@example.org
	// Cc:
	// Bcc:
	// From: robot@example.org
	// Subject: /chatter
	// Message-ID: <1.3f2a0c119b544de08a61771e42d00b95@robot.example.org>
	// Date: Sat, 21 Nov 2026 11:44:27 +0000
	// Auto-Submitted: auto-generated
	// Publisher-Sequence-Number: 1
	// Body-Line-Ending: lf; final=0
	//
	// data: hello
	//
	// 8-bit: false
	// true
}
