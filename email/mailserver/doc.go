// Package mailserver is a complete mail server for tests and local work, in
// one process: SMTP submission with AUTH on one side, IMAP4 with IDLE on the
// other, and a few accounts in between.
//
//	server, err := mailserver.Start(mailserver.Config{})
//	if err != nil { ... }
//	defer server.Close()
//	// Give server.SMTPURL() and server.IMAPURL() to the program under test.
//
// The zero Config listens on two free loopback ports in plaintext and has the
// accounts of [DefaultAccounts].
//
// # What it serves
//
// SMTP: RFC 5321 and submission (RFC 6409) with AUTH PLAIN and LOGIN
// (RFC 4954), SIZE (RFC 1870), PIPELINING (RFC 2920), 8BITMIME (RFC 6152),
// CHUNKING (RFC 3030), ENHANCEDSTATUSCODES (RFC 2034), SMTPUTF8 (RFC 6531) and
// STARTTLS (RFC 3207). On request also LMTP (RFC 2033), which is part of that service.
//
// IMAP: IMAP4rev1 (RFC 3501) and IMAP4rev2 (RFC 9051) with IDLE (RFC 2177),
// UIDPLUS (RFC 4315), MOVE (RFC 6851), ESEARCH (RFC 4731), SEARCHRES
// (RFC 5182), BINARY (RFC 3516), LITERAL- (RFC 7888), SASL-IR (RFC 4959),
// NAMESPACE (RFC 2342), LIST-EXTENDED (RFC 5258), LIST-STATUS (RFC 5819),
// STATUS=SIZE (RFC 8438), APPENDLIMIT (RFC 7889) and STARTTLS.
//
// # What it does with a mail
//
// A mail is stored in the INBOX of every account it is addressed to before the
// server answers 250, or in none of them. The client's bytes are kept exactly;
// Return-Path, Delivered-To and Received go in front of them, and Date and
// Message-ID when the client left them out (RFC 6409 section 8). Addresses are
// compared without regard to case. Nothing is ever relayed: an address that is
// no account of the server is refused with 550 5.1.1. The envelope sender may
// be any address, as with Postfix as it comes.
//
// # Outages
//
// [Server.Stop], [Server.Resume] and [Server.Disconnect] take SMTP and IMAP
// away separately, as abruptly as a crash or a cut wire would, and give them
// back on the same port with every mailbox as it was. [Server.Deliver] puts
// foreign or hostile mail into a mailbox as it is, and [Server.Stats] counts
// what clients did.
//
// # What it is not
//
// It is memory only: mail is gone when the process ends. It has no queue, no
// bounces, no spam filter, no quota negotiation, no users but those of its
// configuration, and no rate limit on passwords. What it holds is bounded by
// [Config]; it is nevertheless no server to put on the Internet.
package mailserver
