// Package email carries messages as ordinary mail: it submits them over SMTP
// (RFC 6409) or LMTP (RFC 2033), or appends them to a folder, and finds them in the inbox over IMAP (RFC 9051). What a message looks
// like as mail is the business of package email/wire.
//
// [Open] turns a [Config] into a [Carrier], which a transport.Node owns. Several nodes
// may share one account: each sees every mail, and takes what it has interests in. The
// inbox is only read: no mail in it is changed, marked or deleted, unless the options
// skipped and retention say so.
//
// # Configuration
//
// [LoadConfig] reads the file of rmw_email as it is, with a few keys more:
//
//	email:
//	  user:
//	    url-smtp: smtp.example.com     # or a URL, see below, or a list of several
//	    url-imap: imap.example.com
//	    username: robot@example.com
//	    password: secret               # or password-file, or password-env
//	    from: robot@example.com        # if the user name is not the address
//	  recipients:                      # of messages that no route matches;
//	    to: base@example.com           # each a text or a list of texts
//	    cc: [a@example.com, b@example.com]
//	    bcc: c@example.com
//	  polling-period: 1000000000       # ns; the longest time between two looks
//	  intraprocess: false              # true: no mail at all
//	  tls:
//	    ca-file: ca.pem                # authorities to trust besides the system's
//	  people: [ann@example.com, "@example.org"]  # who may publish and call by mail
//	  skipped:                         # what happens to mail that is none of ours: this
//	    flag: $NotPostbus              # gives it a keyword, "move: FOLDER" moves it
//	  listen:                          # if url-imap says to listen: who is served
//	    recipients: [bot@example.com, "@robots.example.com"]  # besides the account
//	  compat: rmw_email                # all messages are for rmw_email
//	  batch: true                      # several messages travel as one mail; or a section:
//	    messages: 1024                 # at most so many in a mail,
//	    bytes: 61440                   # of that size, at most 1048576;
//	    delay: 0s                      # how long to wait for more when nothing is on its way
//	routes:                            # the first that matches counts
//	  - pattern: /robot/>
//	    to: [robot@example.com]
//	    compat: rmw_email              # these messages are for rmw_email
//	retention:                         # what happens to messages that are finished: keep,
//	  finished: delete                 # seen, delete, or "move: FOLDER"
//	  after: 168h                      # when they are so old,
//	  keep: 10000                      # or not among so many of the newest mails
//	limits:
//	  max-body: 16777216               # bytes
//	state: state.db                    # what durable interests remember; one file for one node
//	outbox:                            # keep messages on disk until they are sent
//	  file: outbox.db                  # (package transport/outbox); the others
//	  max-entries: 100000              # have these defaults
//	  max-bytes: 1073741824
//	  max-age: 120h
//	  when-full: refuse                # or drop-oldest
//	nats: nats://nats.example.com      # NATS instead of mail: a URL, or a section, see docs/nats.md
//
// With the key nats the section email may be missing. Files are relative to the folder of the configuration file. Keys that are not known,
// or hold something of another type, are errors.
//
// A bare host name means TLS on port 465 and 993. URLs choose:
//
//	smtps://host:465            imaps://host:993             TLS from the first byte
//	smtp+starttls://host:587    imap+starttls://host:143     STARTTLS, or nothing
//	smtp+insecure://host:25     imap+insecure://host:143     plaintext, for loopback
//
// In url-imap these mean that nothing is looked for: a mail server delivers to this node, see below.
//
//	lmtp+unix:///run/robot.sock    lmtp+insecure://127.0.0.1:24    smtp+insecure://127.0.0.1:25
//
// Nothing but "insecure", and a socket of the machine, makes a password or message travel without TLS 1.2 or later
// and a valid certificate.
//
// Where the server delivers into the recipients' mailboxes itself, as Dovecot does, url-smtp can be its LMTP (RFC 2033), which has no queue on the
// way: lmtp+unix:///path for a socket, lmtp+insecure://host:24 over TCP, for loopback and networks that are trusted. There is no login unless the
// server offers one. It answers for each recipient: see below.
//
// With an IMAP URL as url-smtp there is no SMTP at all: messages are appended to a folder of the account, or to one of
// somebody else's that is shared with it (RFC 4314), and everybody who watches the folder gets them, as soon
// as the server has stored them. Whoever the recipients are, they get nothing by that; those of To and Cc are written into the
// mail, those of Bcc nowhere, and with none it is addressed to the account. Nobody bounces such a message. The mails are new: without flags, unread, and of
// the server's date.
//
// An IMAP URL can name a folder, as in imaps://host/Team/Robots, which in url-imap is watched instead of INBOX: one
// into which a filter of the server sorts the messages, or that several accounts share (RFC 4314). It is named
// as the server shows it to this account, and has to be there. What is said of the inbox below is true of it.
// A state file is for one folder.
//
// # Listening
//
// With lmtp+unix, lmtp+insecure or smtp+insecure as the scheme of url-imap the node listens at the socket or address, and a mail
// server, or another node, delivers to it by LMTP (RFC 2033) or SMTP. There is no mailbox and nothing to poll: a message
// is with whoever wants it before its mail has been answered for. In Postfix it takes one line of a transport table,
//
//	robot@example.com    lmtp:unix:/run/robot.sock
//
// The listener takes mail for the address of the account and those of listen.recipients, and refuses all other recipients (550). Whoever
// reaches it can send it mail: keep it on loopback, or in a folder that only the mail server can enter. The socket gets the
// permissions that the process's umask leaves; one that a crash has left behind is replaced. For TLS, and for listeners that the program
// has made itself, there is [Listen].
//
// What is taken is in memory and nowhere else. So there are no durable interests, groups or last messages, no retention
// and no state file: errors wrap transport.ErrNotSupported. Each publisher's order is kept and repeated messages are known as in an
// inbox. Mail that is no message of anybody's here is taken and dropped, with a line in the log. While the node does not run,
// messages wait where they are: in the queue of the mail server, or the outbox of the other node. They are not
// taken before the program has stated its interests: a tenth of a second after the first one. Until then the other side waits, for two seconds
// at most after Open, and is then told to try again later (451); so a program that only sends should not listen. Close takes what is on its way in.
//
// Connections are limited to 64, which may be silent for five minutes, a mail to five minutes, and all mails that
// are on their way in to four of the largest; for more the other side is told to try again later (421, 452).
//
// # What a nil error means
//
// Send returns nil when the folder of an IMAP server has the mail, or when the SMTP server has taken it, which makes it the
// server's duty to deliver it or to report that it can't (RFC 5321 section 6.1). All
// recipients of a message get it, or, if the server refuses one of them, none. A
// failure is a *transport.SendError: Temporary or Permanent if the mail was certainly
// not taken, by the server's reply code; Unknown if the connection was lost after the
// whole mail had been sent. (A mail of nearly 4 KiB to one recipient is sent whole before the server has said anything, if it offers PIPELINING and
// CHUNKING, RFC 2920 and 3030, so that it takes one round trip; otherwise the mail waits until all recipients have been accepted.) An
// LMTP server can still refuse one recipient when it has the mail, while others get it: then the outcome is Permanent if it is refused
// for good, else Unknown, so that it is sent again, and those who have it drop the repetition, but for requests that are not durable, and answers, which are delivered
// as they come. The error says who they are. It wraps transport.ErrUndeliverable for a recipient, or a folder that is not there,
// transport.ErrRefused for an account or a mail that the server does not want, and
// transport.ErrTooLarge for one above its limit, which is checked before sending.
//
// # Batches
//
// With the option batch, messages that are to be sent while a mail is on its way to the server are collected, and those for the
// same recipients go as one mail when it has been taken: a multipart/digest, which a mail client shows message by message. A message that comes when
// nothing is on its way goes at once, as the ordinary mail that it would be without the option. So a single message is
// as fast as ever, and a mail server that takes a few hundred mails a second carries tens of thousands of messages. Receivers need no option.
//
// Every call of Send returns when its own messages have been taken, with its own outcome. If its context ends before they are sent they
// are not sent; after that the outcome is Unknown, and the mail goes on its way for the others in it. When the server refuses a mail of
// several messages, for good or for now, and not for its sender or a recipient, they are sent again one by one, so that only the one that is
// refused fails; one that is put off puts off those behind it. What some recipients of a mail
// have, over LMTP, is not broken up: its messages share the outcome. Messages for rmw_email and answers to people always are mails of their own, and each publisher's stay in order.
//
// # Bounces
//
// A mail server that can't deliver what it has taken writes back: a delivery status
// notification (RFC 3464) or a report in a form of its own. If it is about a message of an
// entity of this node it is delivered as transport.Undeliverable, with the recipient, the
// codes and the words of the server: a call fails at once, with transport.ErrUndeliverable,
// and a publisher that asked for it is told. One recipient of several is enough. Reports
// about others are logged (Info), for in a mailbox that nodes share everybody sees them; so
// are those that a mail is only late, or has been delivered (Debug).
//
// A report is as good as whoever wrote it. It has to name the Message-ID, which only the
// recipients of a message and the servers on its way know.
//
// # People
//
// A person can answer a call from any mail client: the reply is the response, Person is
// set, and Body is the person's own words as UTF-8 text, without quotation and signature.
// It is recognised by In-Reply-To or References alone; whoever knows the Message-ID can
// answer. Out-of-office notes, mailing lists and other automatic mail (RFC 3834) never are
// an answer. Of mail above 64 KiB only the text in the first 64 KiB counts.
//
// With the option people, those on the list also publish to topics and call services: by
// an ordinary mail whose Subject is the name of a service that is served here, or else of a
// topic that is subscribed to. A service answers with a mail of its own, the result or the
// error as text. A reply to a topic message says something on the topic; a reply in
// a thread that a message began is never a request, for it may be the answer to a call of
// another node. The list is a convenience and no protection: anybody can write any
// sender into a mail, and only a server that checks them (SPF, DKIM and DMARC) and refuses
// forged ones makes it one. What such a service does should be harmless, and the address
// that its answer goes to may be a stranger's.
//
// # What is delivered
//
// Everything that arrives in the inbox after Open. Messages of this program's own are received like
// others if they are addressed to its account.
//
// Mail servers shuffle mail on its way and, when a connection breaks at the wrong moment, it is sent twice. An
// interest in topic messages gets each message once, and those of each publisher in the
// order of their numbers: what is behind a missing one is held back for Interest.GapWait, then the gap is reported and
// passed; should the missing message come after all, it is delivered late, for to lose it would be
// worse. Of a publisher that is heard of for the first time nobody knows whether earlier messages
// are still on their way: if its number is not above 512, the first message waits as for a gap, else a quarter of
// that, and no gap is reported before it. At most 16,384 messages or 64 MiB are held back. Messages without a number
// (people's, rmw_email's) come as they arrive, and are known again by their Message-ID. Each interest remembers 16,384 publishers
// and as many Message-IDs, those of the latest messages. Requests that are not durable, and answers, are delivered as they come.
//
// Interest.Last asks for the newest messages from before: the mailbox is searched backwards, 20,000
// mails at most, and what is found comes first, in order, without a gap or a repetition between it and
// what is new.
//
// While nobody has stated an interest, what arrives is passed over: an interest is for
// what comes after it.
//
// One mail may hold several messages (see wire.Batch). Each is received as if it had come alone: it has its own
// place in the order, is acknowledged, read again or a dead letter by itself, and when a durable name or a member of a
// group has no room for all, the rest comes later. Interest.Last counts messages. The mail is finished when all its messages are
// (see Retention). A message that is damaged or above the limit costs no other in the mail, which
// itself may have 2 MiB, or more if a single message may. When the mail bounces, the
// senders of all its messages hear of it.
//
// Mail that is not postbus', is damaged, is above the limit or can't be fetched is
// skipped with a line in the log and never delays what follows. Mail above 64 KiB is
// only fetched entirely if its header shows that somebody wants it. Carrier.Skipped
// counts what is skipped, by reason.
//
// With the option skipped such mail also gets a keyword, or is moved to a folder, which is
// created if it is missing: in portions, after what else has arrived has been
// delivered. What the server refuses is logged, once until it works again, and left as it
// is. On a server without MOVE and UIDPLUS moved mail stays in the inbox as deleted, until
// some client expunges it. The option is for an account that one node has for itself: an
// answer or request that a person has written to another node looks foreign here.
// Messages that nobody here wants, and reports of mail servers, are never touched.
//
// # Durable interests
//
// What a durable name has handled is kept in the state file (Config.State), a place in the inbox with it. When the name is used again,
// by the same program or another, also after a crash, everything that has arrived meanwhile is delivered, and
// before that what had been delivered and not settled. The first use begins with what arrives from then on, or with
// Interest.Last messages. A name is for one Kind and Name; used for others it fails with transport.ErrInUse.
//
// What is guaranteed: when Ack has returned nil the message is not delivered again, nor another mail of it (the same
// publisher and number, or else the same Message-ID), whatever happens to the process, the machine or the connection; a
// request that is sent again is delivered with Repeated set. All else is delivered until it is settled. The messages of each publisher come in order, also
// after a restart; one that was given back by Nack gives up its place, and so does one whose
// gap was passed. Attempt counts over restarts; a delivery that ends with the process counts if it has lasted for 20 ms. Only Nack makes a
// dead letter of a message, for a program may be killed often without the message being the reason.
//
// A message that can't be handled is kept as a dead letter in the state file, with the reason: see Carrier.State, OpenState and the command
// postbus durable. A delay of Nack is not kept over a restart: the message comes at once then.
//
// What is not: a message that is deleted from the mailbox before it is settled is lost once it is not in memory, which is logged. Beyond 16,384
// publishers and as many messages without a number those that have been silent for longest are forgotten; if they are
// repeated then they are delivered again. A mail with neither number nor Message-ID can't be told from a
// repetition after the inbox was renumbered: what is older than the last look counts as handled. Without its state file a
// name begins anew.
//
// A durable interest takes from the mailbox what it can handle: InFlight messages, and 256 or 16 MiB more. The rest
// stays there and is read in portions when there is room, which delays nobody else. Only what is delivered through an account's own connection is
// shown to Options.OnMail; what a durable interest reads to catch up is not, nor is it counted in Carrier.Skipped.
//
// # Groups
//
// The members of a group (transport.Interest.Group) in all nodes that share the account share its messages. What
// they agree on is in a folder of the mailbox, postbus-group-NAME-HASH, with HASH standing for kind and
// name (below the folder that is watched, if it is not INBOX, so that accounts that share the folder share the groups;
// they need the right to create folders there): every member appends records of what it claims, has done or gives back, in JSON that a person can
// read. The order of the UIDs, which servers keep, is the order of the records for everybody, so all members know
// who has which message; the time that counts is the server's (INTERNALDATE). The account must
// be allowed to create folders; if it is not, that is logged, once, and tried again.
//
// What is guaranteed: of the members one has a message at a time. When Ack has returned nil no other
// member ever gets the message, nor another mail of it (the same publisher and number, or else the
// same Message-ID); a repeated request is dropped, for the member that has handled it has answered it. A member that
// dies, or can't reach the server for the time of its lease, loses what it had not settled to others, without
// any new mail having to arrive; if it lives on and settles such a message, Ack returns an error. Nothing is lost
// while there is no member: the group goes on where it was. A group begins with what
// arrives after its first member has stated its interest. Unsettled deliveries go to others at once when a
// node is closed, and after the lease when only the interest was stopped.
//
// What is not: the order of messages is given up; a handler whose lease ends while it runs can't be
// interrupted, so for that time two may work on the same message, of which one's Ack counts; a
// clock of the server that is set forward ends leases early. What has been handled is remembered for 1024
// publishers and 4096 messages without a number. A message that is deleted from the inbox before a
// member has read it is lost to the group, which is logged.
//
// A member rests in one command a minute while nothing happens. It has an IMAP connection of its own for each group
// (Dovecot allows ten for each user and address by default). All interests of one node in a group
// are one member. A claim costs an APPEND and a FETCH, for many messages at once when there are many. Checkpoints replace old
// records, so the folder stays at a few hundred mails.
//
// If somebody deletes the folder the members begin a new one with what they remember, and say so in the
// log. Messages that one of them may have handled are then held back until all have said what they have
// done, for 90 s at most. What a dead member had done alone, in the moment before, may be handled again.
//
// # Retention
//
// The inbox keeps what has been received, unless the option retention says that finished messages
// are marked as \Seen, moved to a folder, or deleted. A message is finished when every durable
// interest and group of this node that wanted it has settled it, or when none did. A durable name in the
// state file keeps what it still needs, also while nobody uses it; remove it if nobody ever will. Dead
// letters of durable names are in the state file; those that a group lists stay in the inbox. Mail that is
// not ours, people's included, and reports of mail servers are never touched.
//
// It begins a minute after the start, so state durable interests and join groups by then. It
// goes through the inbox from its beginning, 200 mails at a time, of which it reads the header
// sections, and looks for new ones between two portions; later it goes on once a minute from where it
// stopped. It deletes with UID EXPUNGE; on a server without UIDPLUS what is deleted or moved stays
// marked as deleted, until some client expunges it.
//
// Nodes that share an account must agree about retention: one that comes, or comes back, later than
// after finds no more than what is left. Of groups it knows those that this node is a member of.
//
// # When it is delivered
//
// The carrier rests in IDLE (RFC 2177). After a sign of life, that is, an interest
// stated, a request sent or a message delivered, it also looks into the inbox by itself,
// first every millisecond and then at intervals of a twentieth of the time that it has been
// quiet; after ten seconds of quiet IDLE is left alone. That bridges the half second by
// which common servers delay IDLE notifications. Where a publisher keeps a rhythm of up to ten seconds, looks
// are fewer before its next message is due, and every millisecond then. While the answer to a call is awaited
// there are ten looks a second, at least, until it comes or until the deadline. A server that has announced
// some eight messages before a look has found them is trusted: there are few looks then, for notifications
// that get lost. Once in two minutes, or once in a
// polling-period, the carrier looks in any case, because notifications get lost. A server
// without IDLE is looked at every second.
//
// When there is something new, all of it comes with one FETCH, which travels together with the DONE that ends
// IDLE. Bodies are decoded and delivered while the next ones are on their way.
//
// # Programs of rmw_email
//
// Mail of rmw_email 0.8 is read as it is, and its clients get answers that they can read.
// For all else that programs of rmw_email are to read, compat: rmw_email makes the whole
// node, or the messages of a route (the first that matches counts), write its format (see
// wire.EncodeRMW). What that can't carry is refused with an error that wraps
// transport.ErrNotSupported, or transport.ErrTooLarge: binary data and some 24,000 bytes
// are the limit. Text beyond ASCII needs a server with 8BITMIME (RFC 6152). People are
// answered in the usual form all the same.
//
// # Outages
//
// A lost SMTP connection is replaced when the next message is sent. That the server has
// closed an idle one is seen before it is used (on Unix; elsewhere by the first command, before
// the message is handed over) and costs no attempt. One that has been idle for ten seconds is
// asked whether it is there, and if no answer comes within 0.2 s another one is made meanwhile; so one
// that a router has forgotten costs no more than that.
//
// With several servers for sending, the first that can be reached is used: the next one is
// tried at once when a server refuses the connection, breaks it, answers the connection or the login
// with a temporary error or any command with 421, and as well when it is not ready within a
// second. What a server says of a mail itself is final, and so is that it refuses the login for good.
// A server that failed comes last for a minute. While messages go out over another server than the
// first, it is tried once a minute in the background whether an earlier one is
// back, which then takes over.
//
// While no server can be reached, all who send share that knowledge for a moment, 50 ms
// after the first failed attempt and at most a second: their Send fails at once. A login refused
// for good is shared for 30 seconds, because more tries get the account locked.
//
// A lost IMAP connection is replaced as soon
// as it can be: the first attempts come after 0.1 s, 0.2 s and so on up to 30 s, less up
// to a half at random, without end. Then reception goes on where it stopped: what has
// arrived meanwhile is delivered, nothing twice. The loss and the return are logged,
// once each.
//
// With Options.Offline a carrier can also be opened in an outage.
//
// When there is work, an interest stated or a request sent, the next attempt
// comes a second after the last, whatever the delay in force.
//
// If the server renumbers the inbox (a new UIDVALIDITY), or restores an older state of it (UIDs
// that go back), UIDs do not mean what they meant. Then everything that has arrived since the receiver last
// looked, and in the day before (SEARCH SINCE), is read again and compared with what each interest remembers: what it
// knows, or may have had to forget, is not delivered again, nor what is older than the interest. For
// interests that are not durable, a message of a publisher they have not heard of counts as older when it says that it was published more than an
// hour before the interest; so a restored mailbox in which all mails look new floods nobody. What was
// deleted from the mailbox is not received. A mailbox that is restored and grows beyond its former size while the receiver is
// not connected, under the same UIDVALIDITY, goes unnoticed; servers are to change it (RFC 9051 section 2.3.1.1).
//
// A silent server is a lost one: each command must be answered, or make progress,
// within 30 seconds, the end of a mail within two minutes.
package email
