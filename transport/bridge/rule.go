package bridge

import (
	"errors"
	"fmt"
	"strings"

	"github.com/postbus/postbus/transport"
)

// ErrInvalidRule is wrapped by the errors of ParseRule and Rule.Validate.
var ErrInvalidRule = errors.New("invalid rule of a bridge")

// Direction says which way a rule goes, from the first side of a bridge to the second. The zero value
// is none.
type Direction uint8

const (
	// Forth is from the first side to the second.
	Forth Direction = 1 << iota
	// Back is from the second side to the first.
	Back
	// Both is both ways.
	Both = Forth | Back
)

// String returns "->", "<-" or "<->".
func (d Direction) String() string {
	switch d {
	case Forth:
		return "->"
	case Back:
		return "<-"
	case Both:
		return "<->"
	}
	return fmt.Sprintf("direction(%d)", uint8(d))
}

// Rule says what crosses a bridge.
type Rule struct {
	// Kind is transport.TopicMessage for what is published to topics, or transport.Request for calls of
	// services and their answers.
	Kind transport.Kind
	// Direction is that of the topic messages or requests; answers go against it.
	Direction Direction
	// Pattern is the name, or name pattern (see transport.ValidatePattern), of the topics or services.
	Pattern string
	// Durable is the durable name under which a carrier remembers what has crossed (see
	// transport.Interest.Durable). With Both it is used on both sides.
	Durable string
	// Group is the name of a group of bridges that share what crosses (see transport.Interest.Group).
	Group string
}

const syntax = `it is "topics" or "services", then "->", "<-" or "<->", a name or pattern, and possibly durable=NAME or group=NAME`

// ParseRule reads a rule, as the command postbus bridge takes it: words between blanks, which are
//
//	topics|services ->|<-|<-> PATTERN [durable=NAME] [group=NAME]
//
// For example, "topics <-> /robot/>" joins all topics below /robot, and with "services -> /plan durable=plan"
// calls of /plan on the first side are answered on the second, also those that were made while the bridge was away.
// Errors are those of Validate.
func ParseRule(text string) (Rule, error) {
	rule, err := parse(strings.Fields(text))
	if err == nil {
		err = rule.check()
	}
	if err != nil {
		return Rule{}, fmt.Errorf("%w: %.300q: %w", ErrInvalidRule, text, err)
	}
	return rule, nil
}

func parse(words []string) (rule Rule, err error) {
	if len(words) < 3 {
		return rule, errors.New("it has too few words; " + syntax)
	}
	switch words[0] {
	case "topics":
		rule.Kind = transport.TopicMessage
	case "services":
		rule.Kind = transport.Request
	default:
		return rule, fmt.Errorf("it begins with %.80q; %s", words[0], syntax)
	}
	switch words[1] {
	case Forth.String():
		rule.Direction = Forth
	case Back.String():
		rule.Direction = Back
	case Both.String():
		rule.Direction = Both
	default:
		return rule, fmt.Errorf("%.80q is no direction; %s", words[1], syntax)
	}
	rule.Pattern = words[2]
	for _, word := range words[3:] {
		key, value, ok := strings.Cut(word, "=")
		switch {
		case ok && key == "durable" && value != "" && rule.Durable == "":
			rule.Durable = value
		case ok && key == "group" && value != "" && rule.Group == "":
			rule.Group = value
		default:
			return rule, fmt.Errorf("%.80q does not belong there; %s", word, syntax)
		}
	}
	return rule, nil
}

// String returns the rule as ParseRule reads it.
func (r Rule) String() string {
	kind := r.Kind.String()
	switch r.Kind {
	case transport.TopicMessage:
		kind = "topics"
	case transport.Request:
		kind = "services"
	}
	text := fmt.Sprintf("%s %s %s", kind, r.Direction, r.Pattern)
	if r.Durable != "" {
		text += " durable=" + r.Durable
	}
	if r.Group != "" {
		text += " group=" + r.Group
	}
	return text
}

// Validate checks a rule. Its errors wrap ErrInvalidRule and, where they apply, transport.ErrInvalidName and transport.ErrInvalidKind.
func (r Rule) Validate() error {
	if err := r.check(); err != nil {
		return fmt.Errorf("%w: %.300q: %w", ErrInvalidRule, r.String(), err)
	}
	return nil
}

func (r Rule) check() error {
	if r.Kind != transport.TopicMessage && r.Kind != transport.Request {
		return fmt.Errorf("%w: %v; topic messages and requests can cross", transport.ErrInvalidKind, r.Kind)
	}
	if r.Direction < Forth || r.Direction > Both {
		return fmt.Errorf("%v is none of %v, %v and %v", r.Direction, Forth, Back, Both)
	}
	if r.Durable != "" && r.Group != "" {
		return errors.New("it has a durable name and a group, which remembers by itself; say one of the two")
	}
	return r.interest().Validate()
}

// interest is what the bridge states on the side from which messages come.
func (r Rule) interest() transport.Interest {
	in := transport.Interest{Kind: r.Kind, Name: r.Pattern, Durable: r.Durable, Group: r.Group}
	if r.Kind == transport.Request && in.Tracked() {
		in.InFlight = MaxCalls
	}
	return in
}
