package mailserver

import (
	"bytes"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
)

// FuzzMessage lets every parser loose on a mail.
func FuzzMessage(f *testing.F) {
	for _, seed := range []string{
		"", "\r\n", "Subject: x\r\n\r\nbody\r\n", "x\r\n",
		"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\none\r\n--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: y\r\n\r\n--b--\r\n",
		"Content-Type: multipart/mixed\r\n\r\n",
	} {
		f.Add([]byte(seed), int64(0), int64(10))
	}
	now := time.Now()
	f.Fuzz(func(t *testing.T, mail []byte, offset, size int64) {
		head := append([]byte("Received: x\r\n"), missingFields(mail, "localhost", "id", now)...)
		for _, m := range []*message{{body: mail}, {head: head, body: mail}} {
			header, text := m.split()
			if !bytes.Equal(append(bytes.Clone(header), text...), m.bytes()) {
				t.Fatal("header and text are not the mail")
			}
			if len(m.head) > 0 && m.envelope().MessageID == "" && !hasField(header, "Message-ID", "") {
				t.Error("no Message-ID")
			}
			checkStructure(t, m.structure(), 0)
			partial := &imap.SectionPartial{Offset: offset, Size: size}
			for _, item := range []*imap.FetchItemBodySection{
				{Partial: partial},
				{Specifier: imap.PartSpecifierHeader, HeaderFields: []string{"Subject"}, Partial: partial},
				{Specifier: imap.PartSpecifierHeader, HeaderFieldsNot: []string{"Subject"}},
				{Part: []int{1}, Partial: partial},
				{Part: []int{2, 1}, Specifier: imap.PartSpecifierText},
			} {
				if n := total(m.section(item)); item.Partial != nil && n > max(size, 0) {
					t.Errorf("%d bytes of %d", n, size)
				}
			}
			m.binary([]int{1}, partial)
			matcher{flags: newFlagTable()}.message(numbered{1, m}, &imap.SearchCriteria{
				Text: []string{"x"}, Body: []string{"y"}, SentSince: now,
				Header: []imap.SearchCriteriaHeaderField{{Key: "Subject", Value: "z"}},
			})
		}
	})
}

// checkStructure looks for what imapserver's encoder panics on.
func checkStructure(t *testing.T, bs imap.BodyStructure, depth int) {
	if depth > 2*maxPartDepth {
		t.Fatal("too deep")
	}
	switch bs := bs.(type) {
	case *imap.BodyStructureMultiPart:
		if len(bs.Children) == 0 || bs.Extended == nil {
			t.Fatalf("%+v", bs)
		}
		for _, child := range bs.Children {
			checkStructure(t, child, depth+1)
		}
	case *imap.BodyStructureSinglePart:
		if bs.Extended == nil || bs.Type == "" {
			t.Fatalf("%+v", bs)
		}
		if bs.MessageRFC822 != nil {
			checkStructure(t, bs.MessageRFC822.BodyStructure, depth+1)
		}
	default:
		t.Fatalf("%T", bs)
	}
}
