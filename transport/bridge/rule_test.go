package bridge_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/postbus/postbus/intraprocess"
	"github.com/postbus/postbus/transport"
	"github.com/postbus/postbus/transport/bridge"
)

func TestParseRule(t *testing.T) {
	const topics, services = transport.TopicMessage, transport.Request
	for text, want := range map[string]bridge.Rule{
		"topics -> /a":                      {Kind: topics, Direction: bridge.Forth, Pattern: "/a"},
		"topics <- >":                       {Kind: topics, Direction: bridge.Back, Pattern: ">"},
		"  topics   <->\t/robot/*/odom ":    {Kind: topics, Direction: bridge.Both, Pattern: "/robot/*/odom"},
		"services -> u1.echo durable=plan":  {Kind: services, Direction: bridge.Forth, Pattern: "u1.echo", Durable: "plan"},
		"services <-> kiam.> group=bridges": {Kind: services, Direction: bridge.Both, Pattern: "kiam.>", Group: "bridges"},
	} {
		got, err := bridge.ParseRule(text)
		if err != nil || got != want {
			t.Errorf("%q is %+v, %v", text, got, err)
		}
		if again, err := bridge.ParseRule(got.String()); err != nil || again != want {
			t.Errorf("%q became %q, which is %+v, %v", text, got, again, err)
		}
	}
}

func TestParseRuleRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                                 "too few words",
		"topics ->":                        "too few words",
		"topic -> /a":                      `begins with "topic"`,
		"topics => /a":                     `"=>" is no direction`,
		"topics -> /a b":                   `"b" does not belong there`,
		"topics -> /a durable=":            `"durable=" does not belong there`,
		"topics -> /a durable=a group=b":   "say one of the two",
		"topics -> /a durable=a durable=b": `"durable=b" does not belong there`,
		"topics -> /a durable=a/b":         "durable name",
		"services -> /a>":                  "whole tokens",
		"services -> ä":                    "allowed are",
	} {
		_, err := bridge.ParseRule(text)
		if !errors.Is(err, bridge.ErrInvalidRule) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := bridge.ParseRule("topics -> a>"); !errors.Is(err, transport.ErrInvalidName) {
		t.Errorf("a pattern that is none: %v", err)
	}
	for _, rule := range []bridge.Rule{
		{Kind: transport.Response, Direction: bridge.Forth, Pattern: "/a"},
		{Kind: transport.TopicMessage, Pattern: "/a"},
		{Kind: transport.TopicMessage, Direction: bridge.Both + 1, Pattern: "/a"},
	} {
		if err := rule.Validate(); !errors.Is(err, bridge.ErrInvalidRule) {
			t.Errorf("%+v: %v", rule, err)
		}
	}
}

func FuzzParseRule(f *testing.F) {
	for _, text := range []string{"topics <-> /robot/>", "services -> u1.echo durable=plan", "services <- a group=b", "topics"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		rule, err := bridge.ParseRule(text)
		if err != nil {
			return
		}
		if again, err := bridge.ParseRule(rule.String()); err != nil || again != rule {
			t.Errorf("%q became %q, which is %+v, %v", text, rule, again, err)
		}
	})
}

// TestNewRefuses: a bridge that could not do what it is for is none, and leaves nothing behind.
func TestNewRefuses(t *testing.T) {
	busA, busB := intraprocess.NewBus(), intraprocess.NewBus()
	a, b := newNode(t, busA), newNode(t, busB)
	durable := rules(t, "topics -> /a durable=d", "topics -> /b durable=d")
	for name, test := range map[string]struct {
		from, to bridge.Side
		rules    []bridge.Rule
		want     string
	}{
		"no rules":        {bridge.Side{Name: "a", Node: a}, bridge.Side{Name: "b", Node: b}, nil, "no rule"},
		"no name":         {bridge.Side{Node: a}, bridge.Side{Name: "b", Node: b}, durable, "no name of a side"},
		"a name in two":   {bridge.Side{Name: "a,b", Node: a}, bridge.Side{Name: "b", Node: b}, durable, "no name of a side"},
		"no node":         {bridge.Side{Name: "a", Node: a}, bridge.Side{Name: "b"}, durable, "no node"},
		"the same name":   {bridge.Side{Name: "a", Node: a}, bridge.Side{Name: "a", Node: b}, durable, "both sides are a"},
		"the same node":   {bridge.Side{Name: "a", Node: a}, bridge.Side{Name: "b", Node: a}, durable, "both sides are a"},
		"an invalid rule": {bridge.Side{Name: "a", Node: a}, bridge.Side{Name: "b", Node: b}, []bridge.Rule{{}}, "invalid rule"},
		"a name in use":   {bridge.Side{Name: "a", Node: a}, bridge.Side{Name: "b", Node: b}, durable, "in use"},
	} {
		_, err := bridge.New(test.from, test.to, test.rules...)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The durable name of the first rule is free again.
	closeLater(t, openBridge(t, bridge.Side{Name: "a", Node: a}, bridge.Side{Name: "b", Node: b}, "topics -> /a durable=d"))
}

// TestFirstRuleCounts: what several rules fit crosses once.
func TestFirstRuleCounts(t *testing.T) {
	busA, busB := intraprocess.NewBus(), intraprocess.NewBus()
	b := join(t, "a", busA, "b", busB, "topics -> /x/y", "topics -> /x/*", "topics -> >", "topics <- /x/z")
	sub := subscribe(t, newNode(t, busB), ">")
	node := newNode(t, busA)
	for _, name := range []string{"/x/y", "/x/z", "/z"} {
		publish(t, publisher(t, node, name), name)
		if m := next(t, sub); m.Name != name {
			t.Errorf("got %s, not %s", m.Name, name)
		}
	}
	if err := b.Close(t.Context()); err != nil {
		t.Error(err)
	}
	var forwarded []uint64
	for _, s := range b.Stats() {
		forwarded = append(forwarded, s.Forwarded)
	}
	if diff := cmp.Diff([]uint64{1, 1, 1, 0}, forwarded); diff != "" {
		t.Error(diff)
	}
	if m, ok := sub.TryNext(); ok {
		t.Errorf("%s came twice", m.Name)
	}
}
