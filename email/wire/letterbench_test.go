package wire

import (
	"os"
	"testing"
)

func BenchmarkDecodeLetter(b *testing.B) {
	for _, name := range []string{"gmail-top.eml", "thunderbird-bottom.eml", "outlook-word-html.eml", "shift-jis.eml", "nested.eml"} {
		b.Run(name, func(b *testing.B) {
			benchmarkMail(b, "testdata/people/"+name, func(raw []byte) error { _, err := DecodeLetter(raw); return err })
		})
	}
}

func BenchmarkDecodeReport(b *testing.B) {
	for _, name := range []string{"bounces/postfix.eml", "bounces/gmail.eml", "bounces/exim.eml"} {
		b.Run(name, func(b *testing.B) {
			benchmarkMail(b, "testdata/"+name, func(raw []byte) error { _, err := DecodeReport(raw); return err })
		})
	}
	// What a mail costs that is none.
	b.Run("people/gmail-top.eml", func(b *testing.B) {
		benchmarkMail(b, "testdata/people/gmail-top.eml", func(raw []byte) error {
			_, _ = DecodeReport(raw)
			return nil
		})
	})
}

func benchmarkMail(b *testing.B, path string, decode func([]byte) error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if err := decode(raw); err != nil {
			b.Fatal(err)
		}
	}
}
