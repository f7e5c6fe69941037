package mailserver_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postbus/postbus/email/mailserver"
)

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
