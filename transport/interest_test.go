package transport_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/postbus/postbus/transport"
)

func TestInterestValidate(t *testing.T) {
	other := errors.New("any other")
	for _, test := range []struct {
		what string
		i    transport.Interest
		want error
	}{
		{"topic", transport.Interest{Kind: transport.TopicMessage, Name: "/t"}, nil},
		{"everything", transport.Interest{Kind: transport.TopicMessage, Name: "/t/>", GapWait: -1, Gap: func(transport.Gap) {}, Last: transport.MaxLast,
			Durable: "a-B_9", Group: strings.Repeat("g", 64), Lease: transport.MinLease, InFlight: transport.MaxInFlight, MaxDeliver: 1}, nil},
		{"request", transport.Interest{Kind: transport.Request, Name: "/s", Durable: "d", Group: "g"}, nil},
		{"response", transport.Interest{Kind: transport.Response, Client: transport.GID{1}}, nil},
		{"pattern", transport.Interest{Kind: transport.TopicMessage, Name: "/a*"}, transport.ErrInvalidName},
		{"durable name", transport.Interest{Kind: transport.TopicMessage, Name: "/t", Durable: "a/b"}, transport.ErrInvalidName},
		{"long durable name", transport.Interest{Kind: transport.TopicMessage, Name: "/t", Durable: strings.Repeat("g", 65)}, transport.ErrInvalidName},
		{"group", transport.Interest{Kind: transport.TopicMessage, Name: "/t", Group: "ä"}, transport.ErrInvalidName},
		{"last requests", transport.Interest{Kind: transport.Request, Name: "/s", Last: 1}, transport.ErrInvalidKind},
		{"order of requests", transport.Interest{Kind: transport.Request, Name: "/s", GapWait: 1}, transport.ErrInvalidKind},
		{"durable answers", transport.Interest{Kind: transport.Response, Durable: "d"}, transport.ErrInvalidKind},
		{"bounces of a group", transport.Interest{Kind: transport.Undeliverable, Group: "d"}, transport.ErrInvalidKind},
		{"last", transport.Interest{Kind: transport.TopicMessage, Name: "/t", Last: -1}, other},
		{"many last", transport.Interest{Kind: transport.TopicMessage, Name: "/t", Last: transport.MaxLast + 1}, other},
		{"in flight", transport.Interest{Kind: transport.TopicMessage, Name: "/t", Durable: "d", InFlight: transport.MaxInFlight + 1}, other},
		{"max deliver", transport.Interest{Kind: transport.TopicMessage, Name: "/t", Durable: "d", MaxDeliver: -1}, other},
		{"lease", transport.Interest{Kind: transport.TopicMessage, Name: "/t", Group: "g", Lease: time.Second}, other},
		{"long lease", transport.Interest{Kind: transport.TopicMessage, Name: "/t", Group: "g", Lease: transport.MaxLease + 1}, other},
		{"in flight without tracking", transport.Interest{Kind: transport.TopicMessage, Name: "/t", InFlight: 1}, other},
		{"max deliver without tracking", transport.Interest{Kind: transport.Request, Name: "/s", MaxDeliver: 1}, other},
		{"lease without group", transport.Interest{Kind: transport.TopicMessage, Name: "/t", Durable: "d", Lease: transport.MinLease}, other},
	} {
		if err := test.i.Validate(); (err == nil) != (test.want == nil) || test.want != other && !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.what, err, test.want)
		}
	}
}
