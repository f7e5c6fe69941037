package mailserver

import (
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"
)

// flagSet holds the flags of one message, a bit each: the system flags first,
// then the keywords of the account in the order of their first use.
type flagSet uint64

const (
	flagSeen flagSet = 1 << iota
	flagAnswered
	flagFlagged
	flagDeleted
	flagDraft
)

var systemFlags = []imap.Flag{imap.FlagSeen, imap.FlagAnswered, imap.FlagFlagged, imap.FlagDeleted, imap.FlagDraft}

// Limits of keywords: a set is one machine word, and the names are kept for
// the life of the server.
const (
	maxFlags         = 64
	maxKeywordLength = 128
)

// flagTable gives every flag of an account its bit. It only ever grows, so a
// copy of the slice stays right for the sets made before it was taken.
type flagTable []imap.Flag

func newFlagTable() flagTable { return slices.Clone(systemFlags) }

// bit returns the set that holds the flag alone, or 0 if no message ever had
// it. Flags are compared without regard to case (RFC 9051 section 2.3.2).
func (t flagTable) bit(flag imap.Flag) flagSet {
	for i, name := range t {
		if strings.EqualFold(string(name), string(flag)) {
			return 1 << i
		}
	}
	return 0
}

// set returns the set of the flags and enters new keywords into the table.
func (t *flagTable) set(flags []imap.Flag) (flagSet, error) {
	var set flagSet
	for _, flag := range flags {
		bit := t.bit(flag)
		if bit == 0 {
			if strings.EqualFold(string(flag), `\Recent`) {
				continue // RFC 3501 section 2.3.2: not a client's to change
			}
			if strings.HasPrefix(string(flag), `\`) || len(flag) > maxKeywordLength {
				return 0, refusal(imap.ResponseCodeCannot, "Not a flag to be stored")
			}
			if len(*t) >= maxFlags {
				return 0, refusal(imap.ResponseCodeLimit, "Too many different keywords")
			}
			bit = 1 << len(*t)
			*t = append(*t, flag)
		}
		set |= bit
	}
	return set, nil
}

// list returns the flags of the set.
func (t flagTable) list(set flagSet) []imap.Flag {
	flags := make([]imap.Flag, 0, 4)
	for i, name := range t {
		if set&(1<<i) != 0 {
			flags = append(flags, name)
		}
	}
	return flags
}

// refusal is a tagged NO with a response code (RFC 5530).
func refusal(code imap.ResponseCode, text string) error {
	return &imap.Error{Type: imap.StatusResponseTypeNo, Code: code, Text: text}
}
