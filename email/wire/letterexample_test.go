package wire_test

import (
	"errors"
	"fmt"
	"strings"

	"github.com/postbus/postbus/email/wire"
)

// A person answers a request by hand.
func ExampleDecodeLetter() {
	mail := `From: Alice <alice@example.org>
To: Robot <robot@example.org>
Subject: Re: /approve
In-Reply-To: <12.a01bd3465c7e4892b70de53361fa2c08@robot.example.org>
Content-Type: text/plain; charset=utf-8; format=flowed

Yes, but not before noon, because nobody is there 
to press the button.

On 21/11/2026 12:44, Robot wrote:
> Deploy build 812 to the arm?
-- 
Alice
`
	letter, err := wire.DecodeLetter([]byte(strings.ReplaceAll(mail, "\n", "\r\n")))
	if err != nil {
		fmt.Println(err)
		return
	}
	client, call, ours := letter.Answers[0].Origin()
	fmt.Println(letter.From, "answers", letter.Subject, "automatically:", letter.Automatic)
	fmt.Println("call", call, "of client", client, ours)
	fmt.Println(letter.Text)
	// Output:
	// alice@example.org answers /approve automatically: false
	// call 12 of client a01bd3465c7e4892b70de53361fa2c08 true
	// Yes, but not before noon, because nobody is there to press the button.
}

// A mail server could not deliver a request.
func ExampleDecodeReport() {
	mail := `From: MAILER-DAEMON@mail.example.org
To: robot@example.org
Subject: Undelivered Mail Returned to Sender
Content-Type: multipart/report; report-type=delivery-status; boundary=b

--b
Content-Type: message/delivery-status

Reporting-MTA: dns; mail.example.org

Final-Recipient: rfc822; nobody@example.net
Action: failed
Status: 5.1.1
Diagnostic-Code: smtp; 550 5.1.1 User unknown

--b
Content-Type: text/rfc822-headers

Subject: /approve
Message-ID: <12.a01bd3465c7e4892b70de53361fa2c08@robot.example.org>

--b--
`
	report, err := wire.DecodeReport([]byte(strings.ReplaceAll(mail, "\n", "\r\n")))
	if errors.Is(err, wire.ErrForeign) {
		return // a mail of another kind
	}
	fmt.Println(report.Original)
	fmt.Println(report.Recipient, report.Action, report.Code, report.Status, report.Text)
	// Output:
	// 12.a01bd3465c7e4892b70de53361fa2c08@robot.example.org
	// nobody@example.net failed 550 5.1.1 User unknown
}
