package wire

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/postbus/postbus/transport"
)

// benchmarks runs f for text and binary bodies of the usual sizes.
func benchmarks(b *testing.B, f func(b *testing.B, m *transport.Message)) {
	for _, size := range []int{128, 1 << 10, 64 << 10, 1 << 20} {
		binary := make([]byte, size)
		rng := rand.NewChaCha8([32]byte{3})
		rng.Read(binary)
		text := strings.Repeat("The quick brown fox jumps over the lazy dog, and back again.\n", size/61+1)[:size]
		for kind, body := range map[string]string{"text": text[:size-1] + "x", "binary": string(binary)} {
			b.Run(fmt.Sprintf("%s/%d", kind, size), func(b *testing.B) {
				b.SetBytes(int64(size))
				b.ReportAllocs()
				f(b, topic(body))
			})
		}
	}
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
	trace := "Return-Path: <robot@example.org>\r\nDelivered-To: base@example.org\r\n" +
		"Received: from mail.example.org\r\n\tby vm with LMTP\r\n\tid CDRGChuEAWuZMAAAg+zDdQ\r\n\tfor <base@example.org>; Sat, 21 Nov 2026 11:44:27 +0000\r\n" +
		"Received: from vm (unknown [127.0.0.1])\r\n\tby mail.example.org (Postfix) with ESMTPSA id 2690198E00F\r\n\tfor <base@example.org>; Sat, 21 Nov 2026 11:44:27 +0000 (UTC)\r\n"
	benchmarks(b, func(b *testing.B, m *transport.Message) {
		raw := append([]byte(trace), mustEncode(b, m, robot)...)
		for b.Loop() {
			if _, err := Decode(raw); err != nil {
				b.Fatal(err)
			}
		}
	})
}
