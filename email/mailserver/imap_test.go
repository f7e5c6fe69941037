package mailserver_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
	"github.com/emersion/go-sasl"

	"github.com/postbus/postbus/email/mailserver"
)

// responseCode returns the response code of a NO, or what the error is instead.
func responseCode(err error) string {
	var imapErr *imap.Error
	if !errors.As(err, &imapErr) {
		return fmt.Sprint("no answer: ", err)
	}
	return string(imapErr.Type) + " " + string(imapErr.Code)
}

func TestIMAPLogin(t *testing.T) {
	server := start(t, mailserver.Config{})
	dial := func() *imapclient.Client {
		c, err := imapclient.DialInsecure(server.IMAPAddr(), nil)
		check(t, err)
		t.Cleanup(func() { c.Close() })
		return c
	}
	if got := responseCode(dial().Login(robot, "wrong").Wait()); got != "NO AUTHENTICATIONFAILED" {
		t.Error(got)
	}
	if got := responseCode(dial().Login("nobody@localhost.test", "robot").Wait()); got != "NO AUTHENTICATIONFAILED" {
		t.Error(got)
	}
	c := dial()
	check(t, c.Authenticate(sasl.NewPlainClient("", "Robot@localhost.TEST", "robot")))
	for _, want := range []imap.Cap{
		imap.CapIMAP4rev1, imap.CapIMAP4rev2, imap.CapIdle, imap.CapUIDPlus, imap.CapMove,
		imap.CapESearch, imap.CapNamespace, imap.CapEnable,
	} {
		if !c.Caps().Has(want) {
			t.Errorf("%s is missing from %v", want, c.Caps())
		}
	}
	if _, err := c.Namespace().Wait(); err != nil {
		t.Error(err)
	}
	check(t, c.Noop().Wait())
	check(t, c.Logout().Wait())
	if stats := server.Stats(); stats.IMAPLogins != 1 || stats.FailedLogins != 2 {
		t.Errorf("%+v", stats)
	}
}

func TestFetch(t *testing.T) {
	server := start(t, mailserver.Config{})
	raw := "Date: Mon, 02 Jan 2006 15:04:05 +0000\r\nMessage-ID: <1@x>\r\nSubject: =?utf-8?q?gr=C3=BC=C3=9Fe?=\r\n" +
		"From: Robot <" + robot + ">\r\nTo: <" + peer + ">\r\nX-Long: a\r\n b\r\n" +
		"Content-Type: multipart/mixed; boundary=b\r\n\r\n" +
		"--b\r\nContent-Type: text/plain\r\n\r\none\r\n--b\r\nContent-Transfer-Encoding: base64\r\n\r\ndHdv\r\n--b--\r\n"
	check(t, server.Deliver(robot, []byte(raw)))
	c, data := openInbox(t, server, robot)
	if data.NumMessages != 1 || data.UIDNext != 2 || data.UIDValidity == 0 {
		t.Errorf("%+v", data)
	}
	header, text, _ := strings.Cut(raw, "\r\n\r\n")
	header += "\r\n\r\n"

	for name, test := range map[string]struct {
		section imap.FetchItemBodySection
		want    string
	}{
		"all":          {imap.FetchItemBodySection{}, raw},
		"start":        {imap.FetchItemBodySection{Partial: &imap.SectionPartial{Size: 10}}, raw[:10]},
		"middle":       {imap.FetchItemBodySection{Partial: &imap.SectionPartial{Offset: 5, Size: 10}}, raw[5:15]},
		"past the end": {imap.FetchItemBodySection{Partial: &imap.SectionPartial{Offset: int64(len(raw)) - 3, Size: 10}}, raw[len(raw)-3:]},
		"beyond":       {imap.FetchItemBodySection{Partial: &imap.SectionPartial{Offset: 1 << 40, Size: 1<<63 - 1}}, ""},
		"overflow":     {imap.FetchItemBodySection{Part: []int{1}, Partial: &imap.SectionPartial{Offset: 1, Size: 1<<63 - 1}}, "ne"},
		"header":       {imap.FetchItemBodySection{Specifier: imap.PartSpecifierHeader}, header},
		"text":         {imap.FetchItemBodySection{Specifier: imap.PartSpecifierText}, text},
		"fields": {imap.FetchItemBodySection{Specifier: imap.PartSpecifierHeader, HeaderFields: []string{"message-id", "X-LONG", "no"}},
			"Message-ID: <1@x>\r\nX-Long: a\r\n b\r\n\r\n"},
		"other fields": {imap.FetchItemBodySection{Specifier: imap.PartSpecifierHeader,
			HeaderFieldsNot: []string{"date", "from", "to", "subject", "x-long", "content-type"}}, "Message-ID: <1@x>\r\n\r\n"},
		"part":         {imap.FetchItemBodySection{Part: []int{1}}, "one"},
		"second part":  {imap.FetchItemBodySection{Part: []int{2}}, "dHdv"},
		"no such part": {imap.FetchItemBodySection{Part: []int{3}}, ""},
		"deep part":    {imap.FetchItemBodySection{Part: slices.Repeat([]int{1}, 1000)}, ""},
	} {
		test.section.Peek = true
		msgs, err := c.Fetch(imap.UIDSetNum(1), &imap.FetchOptions{BodySection: []*imap.FetchItemBodySection{&test.section}}).Collect()
		check(t, err)
		if len(msgs) != 1 || len(msgs[0].BodySection) != 1 {
			t.Errorf("%s: %+v", name, msgs)
		} else if got := string(msgs[0].BodySection[0].Bytes); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}

	msgs, err := c.Fetch(imap.SeqSetNum(1), &imap.FetchOptions{
		UID: true, Flags: true, RFC822Size: true, InternalDate: true, Envelope: true,
		BodyStructure:     &imap.FetchItemBodyStructure{Extended: true},
		BinarySection:     []*imap.FetchItemBinarySection{{Part: []int{2}, Peek: true}},
		BinarySectionSize: []*imap.FetchItemBinarySectionSize{{Part: []int{2}}},
	}).Collect()
	check(t, err)
	m := msgs[0]
	if m.UID != 1 || m.RFC822Size != int64(len(raw)) || m.InternalDate.IsZero() || len(m.Flags) != 0 {
		t.Errorf("%+v", m)
	}
	if e := m.Envelope; e.Subject != "grüße" || e.MessageID != "1@x" || e.From[0].Addr() != robot || e.To[0].Addr() != peer {
		t.Errorf("%+v", e)
	}
	multi, ok := m.BodyStructure.(*imap.BodyStructureMultiPart)
	if !ok || len(multi.Children) != 2 || multi.Children[0].MediaType() != "text/plain" {
		t.Errorf("%+v", m.BodyStructure)
	}
	if string(m.BinarySection[0].Bytes) != "two" || m.BinarySectionSize[0].Size != 3 {
		t.Errorf("%+v %+v", m.BinarySection, m.BinarySectionSize)
	}
}

func TestFetchSetsSeen(t *testing.T) {
	server := start(t, mailserver.Config{})
	check(t, server.Deliver(robot, []byte(hello)))
	check(t, server.Deliver(robot, []byte(hello)))
	other, _ := openInbox(t, server, robot)
	c, _ := openInbox(t, server, robot)
	msgs, err := c.Fetch(imap.SeqSetNum(1), &imap.FetchOptions{BodySection: []*imap.FetchItemBodySection{{}}}).Collect()
	check(t, err)
	if !slices.Equal(msgs[0].Flags, []imap.Flag{imap.FlagSeen}) {
		t.Errorf("FETCH does not say that the message is seen now: %v", msgs[0].Flags)
	}
	check(t, other.Noop().Wait())
	expect(t, "flags for the other client", other.flags, is(`1 [\Seen]`))

	examined := dialIMAP(t, server, robot)
	_, err = examined.Select("INBOX", &imap.SelectOptions{ReadOnly: true}).Wait()
	check(t, err)
	_, err = examined.Fetch(imap.SeqSetNum(2), &imap.FetchOptions{BodySection: []*imap.FetchItemBodySection{{}}}).Collect()
	check(t, err)
	status, err := examined.Status("INBOX", &imap.StatusOptions{NumUnseen: true}).Wait()
	check(t, err)
	if *status.NumUnseen != 1 {
		t.Errorf("EXAMINE set a flag: %d unseen", *status.NumUnseen)
	}
	if err := examined.Store(imap.SeqSetNum(2), &imap.StoreFlags{Op: imap.StoreFlagsAdd, Flags: []imap.Flag{imap.FlagDeleted}}, nil).Close(); err == nil {
		t.Error("STORE after EXAMINE")
	}
	if err := examined.Expunge().Close(); err == nil {
		t.Error("EXPUNGE after EXAMINE")
	}
	if _, err := examined.Move(imap.SeqSetNum(2), "INBOX").Wait(); err == nil {
		t.Error("MOVE after EXAMINE")
	}
	check(t, examined.UnselectAndExpunge().Wait())
}

func TestStarRange(t *testing.T) {
	server := start(t, mailserver.Config{})
	c, _ := openInbox(t, server, robot)
	check(t, c.Create("Copies", nil).Wait())
	// COPY says which messages a set has; in FETCH the library filters them.
	uids := func(set imap.NumSet) string {
		data, err := c.Copy(set, "Copies").Wait()
		check(t, err)
		return data.SourceUIDs.String()
	}
	if got := uids(imap.UIDSet{{Start: 1}}); got != "" {
		t.Errorf("empty mailbox: %v", got)
	}
	for range 5 {
		check(t, server.Deliver(robot, []byte(hello)))
	}
	check(t, c.Store(imap.UIDSetNum(2, 5), &imap.StoreFlags{Op: imap.StoreFlagsAdd, Flags: []imap.Flag{imap.FlagDeleted}}, nil).Close())
	check(t, c.Expunge().Close())
	for _, test := range []struct {
		set  imap.NumSet
		want string
	}{
		{imap.UIDSet{{Start: 3}}, "3:4"},
		{imap.UIDSet{{Start: 4, Stop: 4}, {Start: 1, Stop: 1}}, "1,4"},
		{imap.UIDSet{{Start: 2, Stop: 2}, {Start: 5, Stop: 900}}, ""},
		{imap.UIDSet{{Start: 1, Stop: 3}, {Start: 900, Stop: 0}}, "1,3:4"},
		{imap.UIDSet{{Start: 900}}, "4"}, // RFC 9051 section 6.4.8
		{imap.UIDSet{{Start: 0, Stop: 0}}, "4"},
		{imap.SeqSet{{Start: 2}}, "3:4"},
		{imap.SeqSet{{Start: 0, Stop: 0}}, "4"},
		{imap.SeqSet{{Start: 3, Stop: 4000000000}}, "4"},
		{imap.SeqSet{{Start: 4, Stop: 5}}, ""},
	} {
		if got := uids(test.set); got != test.want {
			t.Errorf("%v: %v, want %v", test.set, got, test.want)
		}
	}
}

// TestFetchSeesNewMail: a client that polls with UID FETCH gets a mail with the
// first FETCH after its arrival.
func TestFetchSeesNewMail(t *testing.T) {
	server := start(t, mailserver.Config{})
	c, _ := openInbox(t, server, robot)
	for i := range 100 {
		check(t, server.Deliver(robot, []byte(hello)))
		if got := c.fetchBodies(imap.UID(i + 1)); len(got) != 1 || got[0] != hello {
			t.Fatalf("%d: %q", i, got)
		}
	}
}

func TestStoreAndExpunge(t *testing.T) {
	server := start(t, mailserver.Config{})
	c, _ := openInbox(t, server, robot)
	other, _ := openInbox(t, server, robot)
	for i := range 6 {
		c.append("INBOX", hello, imap.Flag(fmt.Sprintf("$k%d", i)))
	}
	check(t, other.Noop().Wait())
	expect(t, "EXISTS", other.exists, is(uint32(6)))

	store := func(set imap.NumSet, op imap.StoreFlagsOp, flags ...imap.Flag) []*imapclient.FetchMessageBuffer {
		msgs, err := c.Store(set, &imap.StoreFlags{Op: op, Flags: flags}, nil).Collect()
		check(t, err)
		return msgs
	}
	msgs := store(imap.UIDSetNum(1), imap.StoreFlagsAdd, imap.FlagFlagged, "$K0", "new")
	if !slices.Equal(msgs[0].Flags, []imap.Flag{imap.FlagFlagged, "$k0", "new"}) {
		t.Errorf("add: %v", msgs[0].Flags)
	}
	msgs = store(imap.UIDSetNum(1), imap.StoreFlagsDel, "$k0")
	if !slices.Equal(msgs[0].Flags, []imap.Flag{imap.FlagFlagged, "new"}) {
		t.Errorf("remove: %v", msgs[0].Flags)
	}
	msgs = store(imap.UIDSetNum(1), imap.StoreFlagsSet, imap.FlagSeen)
	if !slices.Equal(msgs[0].Flags, []imap.Flag{imap.FlagSeen}) {
		t.Errorf("replace: %v", msgs[0].Flags)
	}
	store(imap.UIDSetNum(2, 3, 5), imap.StoreFlagsAdd, imap.FlagDeleted)

	// UID EXPUNGE takes only what is named, EXPUNGE the rest.
	check(t, c.UIDExpunge(imap.UIDSetNum(1, 2)).Close())
	check(t, c.Expunge().Close())
	check(t, other.Noop().Wait())
	for _, seq := range []uint32{2, 2, 3} {
		if got := <-other.expunged; got != seq {
			t.Errorf("EXPUNGE %d, want %d", got, seq)
		}
	}
	left, err := other.UIDSearch(&imap.SearchCriteria{}, nil).Wait()
	check(t, err)
	if got := left.AllUIDs(); !slices.Equal(got, []imap.UID{1, 4, 6}) {
		t.Errorf("left: %v", got)
	}

	store(imap.UIDSetNum(4), imap.StoreFlagsAdd, imap.FlagDeleted)
	check(t, c.UnselectAndExpunge().Wait()) // CLOSE
	mails, err := server.Messages(robot)
	check(t, err)
	if len(mails) != 2 {
		t.Errorf("CLOSE left %d mails", len(mails))
	}
}

// TestSequenceNumbersHold: while a client uses sequence numbers only, messages
// that others remove keep theirs (RFC 9051 section 7.5.1).
func TestSequenceNumbersHold(t *testing.T) {
	server := start(t, mailserver.Config{})
	for i := range 3 {
		check(t, server.Deliver(robot, fmt.Appendf(nil, "Subject: %d\r\n\r\n", i)))
	}
	c, _ := openInbox(t, server, robot)
	other, _ := openInbox(t, server, robot)
	check(t, other.Store(imap.UIDSetNum(1), &imap.StoreFlags{Op: imap.StoreFlagsAdd, Flags: []imap.Flag{imap.FlagDeleted}}, nil).Close())
	check(t, other.Expunge().Close())
	check(t, server.Deliver(robot, []byte("Subject: 3\r\n\r\n")))
	for range 2 {
		for seq := uint32(1); seq <= 3; seq++ {
			msgs, err := c.Fetch(imap.SeqSetNum(seq), &imap.FetchOptions{UID: true, Envelope: true}).Collect()
			check(t, err)
			if len(msgs) != 1 || msgs[0].UID != imap.UID(seq) || msgs[0].Envelope.Subject != fmt.Sprint(seq-1) {
				t.Fatalf("%d: %+v", seq, msgs)
			}
		}
	}
	if len(c.exists)+len(c.expunged) != 0 {
		t.Error("the numbers changed during FETCH")
	}
	check(t, c.Noop().Wait())
	expect(t, "EXPUNGE", c.expunged, is(uint32(1)))
	expect(t, "EXISTS", c.exists, is(uint32(3)))
}

func TestCopyAndMove(t *testing.T) {
	server := start(t, mailserver.Config{MaxMailboxMessages: 5})
	for i := range 3 {
		check(t, server.Deliver(robot, fmt.Appendf(nil, "Subject: %d\r\n\r\n", i)))
	}
	c, _ := openInbox(t, server, robot)
	other, _ := openInbox(t, server, robot)
	if _, err := c.Copy(imap.SeqSetNum(1), "Archive").Wait(); responseCode(err) != "NO TRYCREATE" {
		t.Error(err)
	}
	check(t, c.Create("Archive", nil).Wait())
	copied, err := c.Copy(imap.UIDSetNum(1, 2), "Archive").Wait()
	check(t, err)
	if copied.SourceUIDs.String() != "1:2" || copied.DestUIDs.String() != "1:2" || copied.UIDValidity == 0 {
		t.Errorf("%+v", copied)
	}
	if _, err := c.Copy(imap.UIDSetNum(1), "Archive").Wait(); responseCode(err) != "NO OVERQUOTA" {
		t.Error(err)
	}
	// Moving needs no room.
	moved, err := c.Move(imap.UIDSetNum(2, 3), "Archive").Wait()
	check(t, err)
	if moved.SourceUIDs.(imap.UIDSet).String() != "2:3" || moved.DestUIDs.(imap.UIDSet).String() != "3:4" {
		t.Errorf("%+v", moved)
	}
	// The other client moves what is gone already, and is then told.
	if _, err := other.Move(imap.UIDSetNum(2), "Archive").Wait(); err != nil {
		t.Error(err)
	}
	expect(t, "EXPUNGE", other.expunged, is(uint32(2)))
	_, err = c.Select("Archive", nil).Wait()
	check(t, err)
	if got := c.fetchBodies(1); len(got) != 4 || got[3] != "Subject: 2\r\n\r\n" {
		t.Errorf("%q", got)
	}
}

func TestAppend(t *testing.T) {
	server := start(t, mailserver.Config{MaxMessageBytes: 10_000, MaxMailboxMessages: 3})
	c, data := openInbox(t, server, robot)
	cmd := c.Append("INBOX", int64(len(hello)), &imap.AppendOptions{Time: time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC), Flags: []imap.Flag{imap.FlagSeen}})
	_, err := cmd.Write([]byte(hello))
	check(t, err)
	check(t, cmd.Close())
	appended, err := cmd.Wait()
	check(t, err)
	if appended.UID != 1 || appended.UIDValidity != data.UIDValidity {
		t.Errorf("%+v", appended)
	}
	msgs, err := c.Fetch(imap.UIDSetNum(1), &imap.FetchOptions{InternalDate: true, Flags: true}).Collect()
	check(t, err)
	if msgs[0].InternalDate.UTC().Year() != 2001 || !slices.Equal(msgs[0].Flags, []imap.Flag{imap.FlagSeen}) {
		t.Errorf("%+v", msgs[0])
	}
	// The client library closes a connection on which a literal was refused.
	try := func(mailbox string, size int) string {
		c := dialIMAP(t, server, robot)
		cmd := c.Append(mailbox, int64(size), nil)
		cmd.Write([]byte(strings.Repeat("x", size)))
		cmd.Close()
		_, err := cmd.Wait()
		return responseCode(err)
	}
	if got := try("Nowhere", 100); got != "NO TRYCREATE" {
		t.Error(got)
	}
	if got := try("INBOX", 10_001); got != "NO TOOBIG" {
		t.Error(got)
	}
	c.append("INBOX", hello)
	c.append("INBOX", hello)
	if got := try("INBOX", 100); got != "NO OVERQUOTA" {
		t.Error(got)
	}
	if mails, _ := server.Messages(robot); len(mails) != 3 || string(mails[0]) != hello {
		t.Errorf("%q", mails)
	}
}

func TestMailboxes(t *testing.T) {
	server := start(t, mailserver.Config{})
	c := dialIMAP(t, server, robot)
	c.append("INBOX", hello)
	list := func(pattern string, options *imap.ListOptions) string {
		found, err := c.List("", pattern, options).Collect()
		check(t, err)
		var names []string
		for _, data := range found {
			names = append(names, data.Mailbox)
			if data.Status != nil {
				names = append(names, fmt.Sprint(*data.Status.NumMessages))
			}
		}
		return strings.Join(names, " ")
	}
	check(t, c.Create("a/b/c", nil).Wait())
	if got := list("*", nil); got != "INBOX a a/b a/b/c" {
		t.Error(got)
	}
	if got := list("%", nil); got != "INBOX a" {
		t.Error(got)
	}
	if got := list("inbox", &imap.ListOptions{ReturnStatus: &imap.StatusOptions{NumMessages: true}}); got != "INBOX 1" {
		t.Error(got)
	}
	if got := list(strings.Repeat("*a", 1000), nil); got != "" {
		t.Error(got)
	}
	check(t, c.Subscribe("a/b").Wait())
	if got := list("*", &imap.ListOptions{SelectSubscribed: true}); got != "a/b" {
		t.Error(got)
	}
	check(t, c.Unsubscribe("a/b").Wait())

	first, err := c.Select("a/b/c", nil).Wait()
	check(t, err)
	check(t, c.Rename("a", "z/y", nil).Wait())
	if got := list("*", nil); got != "INBOX z z/y z/y/b z/y/b/c" {
		t.Error(got)
	}
	check(t, c.Rename("INBOX", "old", nil).Wait())
	if got := list("*", &imap.ListOptions{ReturnStatus: &imap.StatusOptions{NumMessages: true}}); got != "INBOX 0 old 1 z 0 z/y 0 z/y/b 0 z/y/b/c 0" {
		t.Error(got)
	}
	for want, err := range map[string]error{
		"NO ALREADYEXISTS": c.Create("old", nil).Wait(),
		"NO NONEXISTENT":   c.Delete("none").Wait(),
		"NO CANNOT":        c.Delete("INBOX").Wait(),
		"NO HASCHILDREN":   c.Delete("z").Wait(),
	} {
		if got := responseCode(err); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	for _, name := range []string{"x//y", "/x", strings.Repeat("x", 600)} {
		if got := responseCode(c.Create(name, nil).Wait()); got != "NO CANNOT" {
			t.Errorf("%.10s: %s", name, got)
		}
	}
	if _, err := c.Select("none", nil).Wait(); responseCode(err) != "NO NONEXISTENT" {
		t.Error(err)
	}
	// A mailbox that is made again is another one.
	check(t, c.Delete("z/y/b/c").Wait())
	check(t, c.Create("z/y/b/c", nil).Wait())
	second, err := c.Select("z/y/b/c", nil).Wait()
	check(t, err)
	if second.UIDValidity <= first.UIDValidity {
		t.Errorf("UIDVALIDITY %d after %d", second.UIDValidity, first.UIDValidity)
	}

	// The mailbox under a client's feet goes away.
	other := dialIMAP(t, server, robot)
	_, err = other.Select("old", nil).Wait()
	check(t, err)
	check(t, c.Delete("old").Wait())
	check(t, other.Noop().Wait())
	expect(t, "EXPUNGE", other.expunged, is(uint32(1)))
}

func TestSearch(t *testing.T) {
	server := start(t, mailserver.Config{})
	for i := range 20 {
		check(t, server.Deliver(robot, fmt.Appendf(nil,
			"Date: Mon, %02d Jan 2006 15:04:05 +0000\r\nMessage-ID: <%d@x>\r\nSubject: =?utf-8?q?gr=C3=BC=C3=9Fe?= %d\r\nFrom: a%d@example.org\r\n\r\nbody %d\r\n",
			i+1, i, i, i%2, i)))
	}
	check(t, server.Deliver(robot, []byte("Content-Transfer-Encoding: base64\r\n\r\nc2VjcmV0\r\n")))
	c, _ := openInbox(t, server, robot)
	check(t, c.Store(imap.UIDSetNum(3), &imap.StoreFlags{Op: imap.StoreFlagsAdd, Flags: []imap.Flag{imap.FlagSeen, "$x"}}, nil).Close())
	day := func(d int) time.Time { return time.Date(2006, 1, d, 0, 0, 0, 0, time.UTC) }
	header := func(key, value string) *imap.SearchCriteria {
		return &imap.SearchCriteria{Header: []imap.SearchCriteriaHeaderField{{Key: key, Value: value}}}
	}
	for name, test := range map[string]struct {
		criteria *imap.SearchCriteria
		want     string
	}{
		"all":        {&imap.SearchCriteria{}, "1:21"},
		"message-id": {header("message-id", "<7@x>"), "8"},
		"no such":    {header("Message-ID", "<70@x>"), ""},
		"has field":  {header("From", ""), "1:20"},
		"subject":    {header("Subject", "GRÜSSE 1"), ""},
		"decoded":    {header("Subject", "GRÜßE 1"), "2,11:20"},
		"uid":        {&imap.SearchCriteria{UID: []imap.UIDSet{{{Start: 20}}}}, "20:21"},
		"seq":        {&imap.SearchCriteria{SeqNum: []imap.SeqSet{{{Start: 2, Stop: 3}}}}, "2:3"},
		"seen":       {&imap.SearchCriteria{Flag: []imap.Flag{imap.FlagSeen}}, "3"},
		"unseen":     {&imap.SearchCriteria{NotFlag: []imap.Flag{imap.FlagSeen}, UID: []imap.UIDSet{imap.UIDSetNum(2, 3, 4)}}, "2,4"},
		"keyword":    {&imap.SearchCriteria{Flag: []imap.Flag{"$X"}}, "3"},
		"no keyword": {&imap.SearchCriteria{Flag: []imap.Flag{"$none"}}, ""},
		"sent":       {&imap.SearchCriteria{SentSince: day(4), SentBefore: day(6)}, "4:5"},
		"since":      {&imap.SearchCriteria{Since: time.Now().AddDate(0, 0, 2)}, ""},
		"larger":     {&imap.SearchCriteria{Larger: 1000}, ""},
		"body":       {&imap.SearchCriteria{Body: []string{"BODY 12"}}, "13"},
		"encoded":    {&imap.SearchCriteria{Body: []string{"Secret"}}, "21"},
		"text":       {&imap.SearchCriteria{Text: []string{"a1@example"}, UID: []imap.UIDSet{{{Start: 1, Stop: 4}}}}, "2,4"},
		"not":        {&imap.SearchCriteria{Not: []imap.SearchCriteria{{UID: []imap.UIDSet{{{Start: 2}}}}}}, "1"},
		"or":         {&imap.SearchCriteria{Or: [][2]imap.SearchCriteria{{*header("Message-ID", "1@x"), *header("From", "a0")}}}, "1:3,5,7,9,11:13,15,17,19"},
	} {
		data, err := c.UIDSearch(test.criteria, nil).Wait()
		check(t, err)
		got := data.All.String()
		if got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
	data, err := c.Search(&imap.SearchCriteria{NotFlag: []imap.Flag{imap.FlagSeen}}, &imap.SearchOptions{ReturnMin: true, ReturnMax: true, ReturnCount: true}).Wait()
	check(t, err)
	if data.Min != 1 || data.Max != 21 || data.Count != 20 {
		t.Errorf("%+v", data)
	}
}

func TestSearchResult(t *testing.T) {
	server := start(t, mailserver.Config{})
	for range 5 {
		check(t, server.Deliver(robot, []byte(hello)))
	}
	c := dialRaw(t, server.IMAPAddr())
	c.imap("LOGIN " + robot + " robot")
	c.imap("SELECT INBOX")
	if got := c.imap("UID FETCH $ (UID)"); len(got) != 1 {
		t.Errorf("$ before any search: %q", got)
	}
	c.imap("SEARCH RETURN (SAVE) UID 2:4 NOT 3")
	got := c.imap("UID FETCH $ (RFC822.SIZE)")
	if len(got) != 3 || !strings.HasPrefix(got[0], "* 2 FETCH (UID 2 ") || !strings.HasPrefix(got[1], "* 4 FETCH (UID 4 ") {
		t.Errorf("%q", got)
	}
}

func TestKeywordsAreBounded(t *testing.T) {
	server := start(t, mailserver.Config{})
	c, _ := openInbox(t, server, robot)
	c.append("INBOX", hello)
	for i := 0; ; i++ {
		err := c.Store(imap.UIDSetNum(1), &imap.StoreFlags{Op: imap.StoreFlagsAdd, Flags: []imap.Flag{imap.Flag(fmt.Sprint("k", i))}}, nil).Close()
		if err != nil {
			if got := responseCode(err); got != "NO LIMIT" || i < 50 {
				t.Errorf("%d: %s", i, got)
			}
			break
		}
	}
	msgs, err := c.Fetch(imap.UIDSetNum(1), &imap.FetchOptions{Flags: true}).Collect()
	check(t, err)
	if n := len(msgs[0].Flags); n != 59 {
		t.Errorf("%d keywords", n)
	}
}

func TestIMAP4rev2(t *testing.T) {
	server := start(t, mailserver.Config{})
	c := dialIMAP(t, server, robot)
	_, err := c.Enable(imap.CapIMAP4rev2).Wait()
	check(t, err)
	data, err := c.Select("INBOX", nil).Wait()
	check(t, err)
	if data.List == nil || data.List.Mailbox != "INBOX" {
		t.Errorf("%+v", data.List)
	}
	c.append("INBOX", hello)
	found, err := c.UIDSearch(&imap.SearchCriteria{}, nil).Wait()
	check(t, err)
	if found.All.String() != "1" {
		t.Errorf("%+v", found)
	}
}
