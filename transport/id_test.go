package transport_test

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/postbus/postbus/transport"
)

const someGID = "00112233445566778899aabbccddeeff"

func mustGID(t testing.TB, s string) transport.GID {
	t.Helper()
	g, err := transport.ParseGID(s)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestParseGID(t *testing.T) {
	for _, test := range []struct{ in, out string }{
		{someGID, someGID},
		{strings.ToUpper(someGID), someGID},
		{"0", "0"},
		{"4294967295", "4294967295"},
		{"0017", "17"},
		{strings.Repeat("0", 32), "0"},
		{strings.Repeat("0", 24) + "ffffffff", "4294967295"},
		{strings.Repeat("0", 23) + "100000000", strings.Repeat("0", 23) + "100000000"},
	} {
		g, err := transport.ParseGID(test.in)
		if err != nil {
			t.Errorf("ParseGID(%q): %v", test.in, err)
		} else if g.String() != test.out {
			t.Errorf("ParseGID(%q) = %v, want %s", test.in, g, test.out)
		}
	}
	for _, bad := range []string{
		"", " ", "-1", "+1", "4294967296", "1.5", "0x10", "1_000", someGID[1:], someGID + "0", "g" + someGID[1:],
		strings.Repeat("9", 1000),
	} {
		if g, err := transport.ParseGID(bad); err == nil {
			t.Errorf("ParseGID(%q) = %v, want an error", bad, g)
		} else if !g.IsZero() {
			t.Errorf("ParseGID(%q) returns %v with its error", bad, g)
		} else if len(err.Error()) > 200 {
			t.Errorf("ParseGID of %d bytes has an error of %d bytes", len(bad), len(err.Error()))
		}
	}
}

func TestNewGIDsDiffer(t *testing.T) {
	seen := make(map[transport.GID]bool)
	for range 1000 {
		g := transport.NewGID()
		if g.IsZero() || seen[g] {
			t.Fatalf("NewGID returned %v, which is zero or was there before", g)
		}
		seen[g] = true
	}
	if !(transport.GID{}).IsZero() {
		t.Error("the zero GID is not zero")
	}
}

func FuzzParseGID(f *testing.F) {
	for _, s := range []string{"", "0", "17", "4294967296", someGID, strings.ToUpper(someGID), strings.Repeat("0", 32)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		g, err := transport.ParseGID(s)
		if err != nil {
			return
		}
		if again, err := transport.ParseGID(g.String()); err != nil || again != g {
			t.Errorf("%q is read as %v, which is read as %v, %v", s, g, again, err)
		}
	})
}

func TestParseID(t *testing.T) {
	gid := mustGID(t, someGID)
	small := mustGID(t, "17")
	for _, test := range []struct {
		in   string
		want transport.ID
	}{
		{"1." + someGID + "@host", transport.NewID(gid, 1, "host")},
		{"<1." + someGID + "@host>", transport.NewID(gid, 1, "host")},
		{" \t<1." + someGID + "@host>\r\n", transport.NewID(gid, 1, "host")},
		{"0." + someGID + "@a@b", transport.NewID(gid, 0, "a@b")},
		{"18446744073709551615." + someGID + "@[127.0.0.1]", transport.NewID(gid, 1<<64-1, "[127.0.0.1]")},
		{"3." + strings.Repeat("0", 30) + "11@host", transport.NewID(small, 3, "host")},
	} {
		if got := transport.ParseID(test.in); got != test.want {
			t.Errorf("ParseID(%q) = %#v, want %#v", test.in, got, test.want)
		}
	}
	// What is not exactly ours is kept as it is.
	for _, foreign := range []string{
		"", "x", "a@b", "1.2@host", "1.17@host", "01." + someGID + "@host", "+1." + someGID + "@host", "1." + someGID,
		"1." + someGID + "@", "1." + strings.ToUpper(someGID) + "@host", "1." + someGID + ".x@host",
		"18446744073709551616." + someGID + "@host", "1." + strings.Repeat("0", 32) + "@host",
		"20240102030405.4F3A12345678@mail.example.com", "CAD=abc+def@mail.gmail.com", "<a@b", "a@b>",
	} {
		id := transport.ParseID(foreign)
		if id.String() != foreign {
			t.Errorf("ParseID(%q).String() = %q", foreign, id)
		}
		if _, _, ok := id.Origin(); ok {
			t.Errorf("%q is taken for an ID of ours", foreign)
		}
		if id.IsZero() != (foreign == "") {
			t.Errorf("ParseID(%q).IsZero() = %v", foreign, id.IsZero())
		}
	}
}

func TestIDOrigin(t *testing.T) {
	gid := mustGID(t, someGID)
	id := transport.NewID(gid, 42, "mail.example.com")
	if got, want := id.String(), "42."+someGID+"@mail.example.com"; got != want {
		t.Errorf("String() = %q, want %q", got, want)
	}
	if g, seq, ok := id.Origin(); g != gid || seq != 42 || !ok {
		t.Errorf("Origin() = %v, %d, %v", g, seq, ok)
	}
	if g, seq, ok := (transport.ID{}).Origin(); !g.IsZero() || seq != 0 || ok {
		t.Errorf("the zero ID's Origin() = %v, %d, %v", g, seq, ok)
	}
}

func FuzzParseID(f *testing.F) {
	for _, s := range []string{"", "<>", "a@b", "<1." + someGID + "@host>", "1.17@host", "1." + someGID + "@a@b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		// An ID is written with brackets, so that is what must come back.
		id := transport.ParseID(s)
		if again := transport.ParseID("<" + id.String() + ">"); again != id {
			t.Errorf("%q is read as %#v, which is read as %#v", s, id, again)
		}
		if gid, _, ok := id.Origin(); ok == gid.IsZero() {
			t.Errorf("Origin of %q = %v, %v", s, gid, ok)
		}
	})
}

func FuzzNewID(f *testing.F) {
	f.Add([]byte("0123456789abcdef"), uint64(1), "host")
	f.Add([]byte{15: 17}, uint64(1<<64-1), "a.example")
	f.Fuzz(func(t *testing.T, b []byte, seq uint64, host string) {
		gid := transport.GID(append(b, make([]byte, 16)...))
		if gid.IsZero() || host == "" {
			t.Skip()
		}
		host = hex.EncodeToString([]byte(host)) // fit for a Message-ID
		id := transport.NewID(gid, seq, host)
		if again := transport.ParseID(id.String()); again != id {
			t.Errorf("%q is read as %#v", id, again)
		}
	})
}

func TestGIDShort(t *testing.T) {
	for _, test := range []struct{ gid, short string }{
		{someGID, "3437096703"},
		{"17", "17"},
		{"0", "0"},
		{"4294967295", "4294967295"},
		{"ffffffffffffffffffffffff00000000", "1"},
		{"00000000000000000000000100000000", "1"},
	} {
		if got := mustGID(t, test.gid).Short().String(); got != test.short {
			t.Errorf("the short form of %s is %s, want %s", test.gid, got, test.short)
		}
	}
}
