package wire

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/mail"
	"strings"
	"testing"

	"github.com/emersion/go-message"

	"github.com/postbus/postbus/transport"
)

// benchmarks runs f for text and binary bodies of the usual sizes.
func benchmarks(b *testing.B, f func(b *testing.B, m *transport.Message)) {
	for _, size := range []int{128, 1 << 10, 64 << 10, 1 << 20} {
		binary := make([]byte, size)
		rng := rand.NewChaCha8([32]byte{3})
		rng.Read(binary)
		text := strings.Repeat("The quick brown fox jumps over the lazy dog, and back again.\n", size/61+1)[:size]
		for _, c := range []struct{ kind, body string }{{"text", text[:size-1] + "x"}, {"binary", string(binary)}} {
			b.Run(fmt.Sprintf("%s/%d", c.kind, size), func(b *testing.B) {
				b.SetBytes(int64(size))
				b.ReportAllocs()
				f(b, topic(c.body))
			})
		}
	}
}

// readers runs f on mails as a server stores them.
func readers(b *testing.B, f func(raw []byte) (int, error)) {
	benchmarks(b, func(b *testing.B, m *transport.Message) {
		raw := []byte(stored(mustEncode(b, m, robot)))
		for b.Loop() {
			if n, err := f(raw); err != nil || n < len(m.Body) {
				b.Fatalf("%d bytes, %v", n, err)
			}
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	benchmarks(b, func(b *testing.B, m *transport.Message) {
		for b.Loop() {
			if _, err := Encode(m, robot); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	readers(b, func(raw []byte) (int, error) {
		m, err := Decode(raw)
		return len(m.Body), err
	})
}

func BenchmarkDecodeHeader(b *testing.B) {
	readers(b, func(raw []byte) (int, error) {
		_, err := DecodeHeader(raw)
		return len(raw), err
	})
}

// BenchmarkDecodeNetMail splits the mail into fields and reads the body as it is: base64
// stays encoded.
func BenchmarkDecodeNetMail(b *testing.B) {
	readers(b, func(raw []byte) (int, error) {
		m, err := mail.ReadMessage(bytes.NewReader(raw))
		if err != nil {
			return 0, err
		}
		body, err := io.ReadAll(m.Body)
		return len(body), err
	})
}

// BenchmarkDecodeGoMessage splits the mail into fields and decodes the body.
func BenchmarkDecodeGoMessage(b *testing.B) {
	readers(b, func(raw []byte) (int, error) {
		m, err := message.Read(bytes.NewReader(raw))
		if err != nil {
			return 0, err
		}
		body, err := io.ReadAll(m.Body)
		return len(body), err
	})
}

// BenchmarkEncodeGoMessage writes a mail with the same fields and the same transfer
// encoding.
func BenchmarkEncodeGoMessage(b *testing.B) {
	benchmarks(b, func(b *testing.B, m *transport.Message) {
		parsed, err := message.Read(bytes.NewReader(mustEncode(b, m, robot)))
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			var buffer bytes.Buffer
			w, err := message.CreateWriter(&buffer, parsed.Header)
			if err != nil {
				b.Fatal(err)
			}
			if _, err = w.Write(m.Body); err != nil {
				b.Fatal(err)
			}
			if err = w.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkBatchEncode and BenchmarkBatchDecode count one message of a batch as one operation.
func BenchmarkBatchEncode(b *testing.B) {
	benchmarks(b, func(b *testing.B, m *transport.Message) {
		batch, err := NewBatch(batchID, robot, 60<<10)
		for b.Loop() {
			if err == nil {
				err = batch.Add(m)
			}
			if errors.Is(err, ErrBatchFull) {
				batch.Mail()
				if batch, err = NewBatch(batchID, robot, 60<<10); err == nil {
					err = batch.Add(m)
				}
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkBatchDecode(b *testing.B) {
	benchmarks(b, func(b *testing.B, m *transport.Message) {
		batch, err := NewBatch(batchID, robot, 60<<10)
		for err == nil {
			err = batch.Add(m)
		}
		raw := []byte(stored(batch.Mail()))
		b.ResetTimer()
		for left := b.N; left > 0; {
			messages, err := DecodeBatch(raw)
			if err != nil {
				b.Fatal(err)
			}
			for got, err := range messages {
				if err != nil || len(got.Body) != len(m.Body) {
					b.Fatal(err)
				}
				if left--; left == 0 {
					break
				}
			}
		}
	})
}

// BenchmarkBase64 is the floor for binary bodies: one line without end.
func BenchmarkBase64(b *testing.B) {
	decoded := make([]byte, 1<<20)
	encoded := make([]byte, base64.StdEncoding.EncodedLen(len(decoded)))
	b.Run("encode", func(b *testing.B) {
		b.SetBytes(1 << 20)
		for b.Loop() {
			base64.StdEncoding.Encode(encoded, decoded)
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.SetBytes(1 << 20)
		for b.Loop() {
			if _, err := base64.StdEncoding.Decode(decoded, encoded); err != nil {
				b.Fatal(err)
			}
		}
	})
}
