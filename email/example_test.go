package email_test

import (
	"context"
	"fmt"
	"net"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/email/mailserver"
	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/transport"
)

// A node over a mail account: here one of the embedded server, which is enough for
// tests and for local work. Programs use postbus.Open, which reads a configuration file.
func Example() {
	server, err := mailserver.Start(mailserver.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	account := server.Accounts()[0]

	ctx := context.Background()
	carrier, err := email.Open(ctx, email.Config{
		SMTP:     server.SMTPURL(),
		IMAP:     server.IMAPURL(),
		Username: account.Address,
		Password: account.Password,
		To:       []string{account.Address},
	}, email.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	node, err := transport.NewNode(carrier, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer node.Close(ctx)

	sub, err := pubsub.NewSubscription(node, "/chatter")
	if err != nil {
		fmt.Println(err)
		return
	}
	pub, err := pubsub.NewPublisher(node, "/chatter")
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := pub.Publish(ctx, []byte("hello by mail")); err != nil {
		fmt.Println(err)
		return
	}
	msg, err := sub.Next(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s from %s\n", msg.Body, msg.From)
	// Output: hello by mail from robot@localhost.test
}

func ExampleParseConfig() {
	_, err := email.ParseConfig([]byte(`email:
  user:
    url-smtp: smtp.example.com
    url-imap: imap.example.com
    username: robot@example.com
    pasword: secret
`), "email.yml")
	fmt.Println(err)
	// Output:
	// email: configuration: email.yml:6: email.user.pasword: unknown key; known here are url-smtp, url-imap, username, password, password-file, password-env, from
}

// A node to which others deliver, without any mail server; here it delivers to itself, at a free port.
func ExampleListen() {
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	carrier, err := email.Listen(ctx, socket, email.Config{
		IMAP:     "lmtp+insecure://localhost",
		SMTP:     "lmtp+insecure://" + socket.Addr().String(),
		Username: "robot@localhost.test",
		To:       []string{"robot@localhost.test"},
	}, email.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	node, err := transport.NewNode(carrier, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer node.Close(ctx)

	sub, err := pubsub.NewSubscription(node, "/chatter")
	if err != nil {
		fmt.Println(err)
		return
	}
	pub, err := pubsub.NewPublisher(node, "/chatter")
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := pub.Publish(ctx, []byte("hello without a mailbox")); err != nil {
		fmt.Println(err)
		return
	}
	msg, err := sub.Next(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s\n", msg.Body)
	// Output: hello without a mailbox
}
