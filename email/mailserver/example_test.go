package mailserver_test

import (
	"bytes"
	"context"
	"fmt"
	"net/mail"
	"net/smtp"

	"github.com/postbus/postbus/email/mailserver"
)

func Example() {
	server, err := mailserver.Start(mailserver.Config{})
	if err != nil {
		panic(err)
	}
	defer server.Close()

	// Any SMTP client will do. The standard library's takes 127.0.0.1 for a
	// place where passwords may go in the clear.
	auth := smtp.PlainAuth("", "robot@localhost.test", "robot", "127.0.0.1")
	err = smtp.SendMail(server.SMTPAddr(), auth, "robot@localhost.test", []string{"peer@localhost.test"},
		[]byte("Subject: /chatter\r\n\r\nhello\r\n"))
	if err != nil {
		panic(err)
	}

	// So will any IMAP client, but a test need not use one.
	mails, err := server.WaitMessages(context.Background(), "peer@localhost.test", 1)
	if err != nil {
		panic(err)
	}
	m, err := mail.ReadMessage(bytes.NewReader(mails[0]))
	if err != nil {
		panic(err)
	}
	fmt.Println(m.Header.Get("Return-Path"), m.Header.Get("Subject"))
	// Output: <robot@localhost.test> /chatter
}

// A client's reconnecting can be tested without waiting for a real outage.
func ExampleServer_Stop() {
	server, err := mailserver.Start(mailserver.Config{})
	if err != nil {
		panic(err)
	}
	defer server.Close()

	server.Stop(mailserver.IMAP)
	// Clients lose their connections and get no new ones. SMTP goes on, and so
	// does delivery.
	if err := server.Deliver("robot@localhost.test", []byte("Subject: /late\r\n\r\n")); err != nil {
		panic(err)
	}
	if err := server.Resume(mailserver.IMAP); err != nil {
		panic(err)
	}
	mails, err := server.Messages("robot@localhost.test")
	fmt.Println(len(mails), err)
	// Output: 1 <nil>
}
