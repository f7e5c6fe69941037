package proxy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestFlights: what is sent in pieces without waiting is one flight, however fast the server answers.
func TestFlights(t *testing.T) {
	b := newBench(t)
	client, server := b.connect()
	b.write(server, "welcome")
	b.want(client, "welcome")
	b.CountFlights(func(flight string) bool { return strings.HasSuffix(flight, "!") })
	second, secondServer := b.connect() // later connections are counted, too
	for i := range 3 {
		b.write(client, "one")
		b.want(server, "one")
		b.write(server, "early")
		b.write(client, fmt.Sprint(i, "!"))
		b.want(server, fmt.Sprint(i, "!"))
		b.want(client, "early")
	}
	b.write(client, "more!") // after an answer
	b.write(client, "and!")  // not after an answer
	b.want(server, "more!and!")
	b.write(server, "unasked")
	b.want(client, "unasked")
	b.write(second, "other!")
	b.want(secondServer, "other!")
	if got, want := b.Flights(), []string{"one0!", "one1!", "one2!", "more!and!", "other!"}; !slices.Equal(got, want) {
		t.Errorf("flights %q, want %q", got, want)
	}
	b.CountFlights(func(string) bool { return true })
	b.write(client, "x")
	b.want(server, "x")
	if got := b.Flights(); !slices.Equal(got, []string{"x"}) {
		t.Errorf("flights %q after counting anew", got)
	}
}

// TestFlightWaits: a client that waits where it should not gets its answer all the same, and is counted.
func TestFlightWaits(t *testing.T) {
	b := newBench(t)
	client, server := b.connect()
	b.CountFlights(func(flight string) bool { return strings.HasSuffix(flight, "!") })
	start := time.Now()
	b.write(client, "waits")
	b.want(server, "waits")
	b.write(server, "answer")
	b.want(client, "answer")
	if took := time.Since(start); took < quiet {
		t.Errorf("the answer came after %v, want %v", took, quiet)
	}
	b.write(client, "end!")
	b.want(server, "end!")
	if got := b.Flights(); !slices.Equal(got, []string{"waits", "end!"}) {
		t.Errorf("flights %q", got)
	}
	b.write(server, "x")
	b.want(client, "x")
	b.write(client, "cut off")
	b.want(server, "cut off")
	b.write(server, "held")
	b.Cut()
	b.wantEnd(client)
}
