package wire

import (
	"strings"
	"testing"
)

func TestParam(t *testing.T) {
	for value, want := range map[string]string{
		"":                                 "",
		"text/plain":                       "",
		"text/plain; charset=utf-8":        "utf-8",
		"text/plain;CHARSET = \"utf-8\" ;": "utf-8",
		"text/plain; charset=\"a\\\"b;c\"": "a\"b;c",
		"text/plain; x=\"; charset=no\"; charset=yes": "yes",
		"text/plain; charset=a; charset=b":            "a",
		"text/plain; charset=us-ascii (text)":         "us-ascii",
		"text/plain; charset":                         "",
		"text/plain; =; ;; charset=a":                 "a",
		"text/plain; charset=\"open":                  "open",
		"text/plain; charset=\"open\\":                "open\\",
		"text/plain; name=\"a\\":                      "",
	} {
		if got := string(param([]byte(value), "charset")); got != want {
			t.Errorf("%q: got %q, want %q", value, got, want)
		}
	}
}

func TestHeaderText(t *testing.T) {
	for value, want := range map[string]string{
		"":                                       "",
		"plain":                                  "plain",
		"a  b\tc":                                "a b c",
		"=?utf-8?q?a=C3=BC_b?=":                  "aü b",
		"=?UTF-8?B?w7w=?= =?utf-8?b?w7w?=":       "üü",
		"x =?utf-8?q?y?= z":                      "x y z",
		"x =?utf-8?q?y?= =?iso-8859-1?q?=FC?= z": "x yü z",
		"=?utf-8?q?=C3?= =?utf-8?q?=BC?=":        "ü", // cut inside of a character
		"=?iso-2022-jp?b?GyRCSj8/LhsoQg==?=":     "平信",
		"=?utf-8*en?q?a?=":                       "a",
		"=?x-klingon?q?a=FC?=":                   "aü",
		"=?utf-8?x?a?= =?utf-8?q?a =?=?q":        "=?utf-8?x?a?= a =?q",
		"=?":                                     "=?",
		"=??q?a?=":                               "=??q?a?=",
		"=?utf-8?q?unended":                      "=?utf-8?q?unended",
		"=?utf-8?q??=":                           "",
		"a=?utf-8?q?b?=c":                        "abc",
		"=?utf-8?q?a=0D=0ABcc:_x?=":              "a Bcc: x",
		"raw gr\xc3\xbc\xc3\x9fe":                "raw grüße",
		"raw gr\xfc\xdfe":                        "raw grüße",
		"=?utf-8?q?=FF=3?=":                      "\uFFFD=3",
		"=? =?utf-8?q?a?=":                       "=? a",
	} {
		if got := headerText([]byte(value)); got != want {
			t.Errorf("%q: got %q, want %q", value, got, want)
		}
	}
}

func TestCharsets(t *testing.T) {
	for _, c := range []struct{ charset, text, want string }{
		{"utf-8", "gr\xc3\xbc\xc3\x9fe", "grüße"},
		{" UTF8 ", "a\xff", "a\uFFFD"},
		{"iso-8859-1", "\x80 \xfc", "€ ü"}, // as everybody reads it
		{"iso-8859-15", "\xa4", "€"},
		{"Windows-1252", "\x84\x93", "„“"},
		{"cp1251", "\xe4\xe0", "да"},
		{"KOI8-R", "\xc4\xc1", "да"},
		{"gb2312", "\xba\xc3", "好"},
		{"big5", "\xa6n", "好"},
		{"euc-kr", "\xb3\xd7", "네"},
		{"ks_c_5601-1987", "\xb3\xd7", "네"},
		{"iso-2022-jp", "\x1b$B$O$$\x1b(B", "はい"},
		{"x-sjis", "\x82\xcd\x82\xa2", "はい"},
		{"utf-16be", "\x00j\x00a", "ja"},
		{"utf-16", "j\x00a\x00", "ja"},
		{"", "gr\xc3\xbc", "grü"},
		{"", "gr\xfc!", "grü!"},
		{"", "gr\xc3\xbc\xc3", "grü"}, // cut off
		{"us-ascii", "\xe2\x82\xac", "€"},
		{"utf-7", "a+-b", "a+-b"},
		{"hz-gb-2312", "~{:C~}", "~{:C~}"},
		{strings.Repeat("x", 1000), "\xfc!", "ü!"},
	} {
		if got := toUTF8([]byte(c.text), c.charset); got != c.want {
			t.Errorf("%q in %.20q: got %q, want %q", c.text, c.charset, got, c.want)
		}
	}
}
