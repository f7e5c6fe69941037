// Package claim decides who of a group handles which message: a state machine that every
// member runs for itself, on the same records in the same order, so that all come to the same
// result. The records are the mails of a folder that all members append to; the order is
// that of their UIDs, the time that of the mail server (INTERNALDATE), in seconds.
//
// A member asks for messages with a [Record], and has them if the state says so once the record
// has been applied. It has them until it settles them, or until it is silent for longer than
// its lease and another one takes them. A [State] that travels in a record is a checkpoint: the records
// up to it are not needed any more.
//
// The package knows nothing of mail servers, clocks or goroutines.
package claim

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/postbus/postbus/internal/order"
	"github.com/postbus/postbus/transport"
)

// Version is the version of the records that this package writes and reads.
const Version = 1

// The limits of what is read.
const (
	// MaxRecord and MaxCheckpoint are the sizes of the largest records in bytes, without and with a checkpoint.
	MaxRecord     = 1 << 18
	MaxCheckpoint = 4 << 20
	// MaxKeys is how many messages each list of a record may name.
	MaxKeys = 1024
	// MaxOpen is how many messages may be claimed or released, but not settled, at a time.
	MaxOpen = 1 << 14
	// MaxReason is the length of the longest reason that is kept, in bytes.
	MaxReason = 500
	// MaxDead is how many dead letters are listed; older ones are only counted.
	MaxDead = 200

	maxMember = 80
	maxLog    = 80
	maxKey    = 64
	maxLease  = 24 * 60 * 60
	maxDelay  = 30 * 24 * 60 * 60
)

var (
	// ErrForeign is wrapped by the errors of mail that is no record.
	ErrForeign = errors.New("not a record")
	// ErrNewer is wrapped by the errors of records of a version that is not known yet. Who
	// meets one does not know what the others know.
	ErrNewer = errors.New("record of a newer version")
)

// Key names a message, whichever mail it came in: by its publisher and number, else by its ID.
type Key string

// KeyOf returns the key of a message; uid and validity say where it is in the inbox, for one that has neither number
// nor ID.
func KeyOf(m *transport.Message, validity, uid uint32) Key {
	k := order.KeyOf(m)
	switch {
	case k.Sequence != 0:
		return Key(k.Publisher.String() + "/" + strconv.FormatUint(k.Sequence, 10))
	case !k.IsZero():
		sum := sha256.Sum256([]byte(k.ID.String()))
		return Key("#" + base64.RawURLEncoding.EncodeToString(sum[:15]))
	}
	return Key(fmt.Sprintf("@%d.%d", validity, uid))
}

// publisher takes a key apart, if it is one of a publisher and number.
func (k Key) publisher() (publisher string, number uint64, ok bool) {
	publisher, digits, ok := strings.Cut(string(k), "/")
	if !ok {
		return "", 0, false
	}
	number, err := strconv.ParseUint(digits, 10, 64)
	return publisher, number, err == nil && number != 0 && publisher != ""
}

// Record is what a member has to say, in one mail. The zero value of every field but the first four
// says nothing.
type Record struct {
	// Version is that of the format.
	Version int `json:"postbus-group"`
	// Member is who writes. Number counts its records from 1: one that comes again,
	// because its writer did not know whether it had arrived, is not applied again.
	Member string `json:"member"`
	Number uint64 `json:"number"`
	// Lease is how many seconds after this record the member may be silent.
	Lease int64 `json:"lease"`
	// Log is the log that the record is for (State.Log); the record that a log begins with gives it that name. In another
	// one, which has taken the place of a log whose loss the member has not noticed yet, the record does not count. An
	// empty one counts in any.
	Log string `json:"log,omitempty"`

	// Validity is the UIDVALIDITY of the inbox that the UIDs here are of.
	Validity uint32 `json:"validity,omitempty"`
	// Read says that all messages of the group below this UID are in the log.
	Read uint32 `json:"read,omitempty"`
	// Resync says that the inbox has been renumbered, and is to be read again from Read on. What
	// was there when that was noticed is below Limit.
	Resync bool   `json:"resync,omitempty"`
	Limit  uint32 `json:"limit,omitempty"`

	// Done, Dead, Released and Gone settle, or give back, what the member has: handled; not to be handled; to be
	// handled later; not in the inbox any more.
	Done     []Key     `json:"done,omitempty"`
	Dead     []Refusal `json:"dead,omitempty"`
	Released []Release `json:"released,omitempty"`
	Gone     []Key     `json:"gone,omitempty"`
	// Claims are what the member wants to have.
	Claims []Claim `json:"claims,omitempty"`
	// Leave gives back all that the member has. It says no more.
	Leave bool `json:"leave,omitempty"`

	// Ask says that the member has found no beginning of the log, though there has been one. Whoever
	// knows the state is to write it down.
	Ask bool `json:"ask,omitempty"`
	// Recall are messages that the member has handled before the log was lost, as far as it knows.
	Recall []Key `json:"recall,omitempty"`
	// State is the state after all records up to State.UID: a checkpoint, or, if that is 0,
	// the beginning of a log.
	State *State `json:"state,omitempty"`
}

// Claim asks for a message that is in the inbox under a UID.
type Claim struct {
	Key Key    `json:"key"`
	UID uint32 `json:"uid"`
}

// Release gives a message back, to be delivered again after a number of seconds. If it is Untried
// the attempt does not count.
type Release struct {
	Key     Key    `json:"key"`
	Delay   int64  `json:"delay,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Untried bool   `json:"untried,omitempty"`
}

// Refusal makes a message a dead letter.
type Refusal struct {
	Key    Key    `json:"key"`
	Reason string `json:"reason,omitempty"`
}

// Empty reports whether the record says nothing, but that its member is alive.
func (r *Record) Empty() bool {
	return r.Read == 0 && !r.Resync && !r.Leave && !r.Ask && r.State == nil && r.size() == 0
}

// size returns how many messages the record names.
func (r *Record) size() int {
	return len(r.Done) + len(r.Dead) + len(r.Released) + len(r.Gone) + len(r.Claims) + len(r.Recall)
}

// Subject says in a few words what the record is, for people.
func (r *Record) Subject(group string) string {
	var says []string
	for _, part := range []struct {
		n    int
		what string
	}{{len(r.Claims), "claimed"}, {len(r.Done), "done"}, {len(r.Dead), "dead"}, {len(r.Released), "released"}, {len(r.Gone), "gone"}, {len(r.Recall), "recalled"}} {
		if part.n > 0 {
			says = append(says, fmt.Sprintf("%d %s", part.n, part.what))
		}
	}
	switch {
	case r.State != nil && r.State.UID == 0:
		says = append(says, "the group begins")
	case r.State != nil:
		says = append(says, fmt.Sprintf("checkpoint of %d", r.State.UID))
	case r.Resync:
		says = append(says, "the inbox is new")
	case r.Ask:
		says = append(says, "asks for the state")
	case r.Leave:
		says = append(says, "leaves")
	case len(says) == 0:
		says = append(says, "is alive")
	}
	return fmt.Sprintf("group %s: %s: %s", group, r.Member, strings.Join(says, ", "))
}

// Encode returns the body of the mail: JSON in short lines.
func (r *Record) Encode() ([]byte, error) {
	r.Version = Version
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return nil, err
	}
	return append(bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n")), "\r\n"...), nil
}

// Parse reads a record from a mail, header and body. Its errors wrap ErrForeign or ErrNewer.
func Parse(mail []byte) (*Record, error) {
	_, body, ok := bytes.Cut(mail, []byte("\r\n\r\n"))
	if !ok || len(body) > MaxCheckpoint {
		return nil, fmt.Errorf("%w: no body, or one that is too large", ErrForeign)
	}
	var version struct {
		Version int `json:"postbus-group"`
	}
	if err := json.Unmarshal(body, &version); err != nil || version.Version < 1 {
		return nil, fmt.Errorf("%w: the body is something else", ErrForeign)
	}
	if version.Version > Version {
		return nil, fmt.Errorf("%w: %d", ErrNewer, version.Version)
	}
	r := new(Record)
	if err := json.Unmarshal(body, r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrForeign, err)
	}
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrForeign, err)
	}
	return r, nil
}

// check says what is wrong with a record.
func (r *Record) check() error {
	switch {
	case !plain(r.Member, maxMember):
		return errors.New("no name of a member")
	case r.Number == 0, r.Lease < 1, r.Lease > maxLease:
		return errors.New("no number or lease")
	case r.Log != "" && !plain(r.Log, maxLog):
		return errors.New("no name of a log")
	case max(len(r.Claims), len(r.Done), len(r.Dead), len(r.Released), len(r.Gone), len(r.Recall)) > MaxKeys:
		return errors.New("too many messages")
	case r.Resync && r.Validity == 0:
		return errors.New("a new inbox without its UIDVALIDITY")
	}
	for i := range r.Dead {
		r.Dead[i].Reason = cut(r.Dead[i].Reason)
	}
	for i := range r.Released {
		r.Released[i].Delay = min(max(r.Released[i].Delay, 0), maxDelay)
		r.Released[i].Reason = cut(r.Released[i].Reason)
	}
	for key := range r.keys {
		if !plain(string(key), maxKey) {
			return errors.New("no key")
		}
	}
	if r.State != nil {
		return r.State.check()
	}
	return nil
}

// keys visits the keys of all messages that the record names.
func (r *Record) keys(yield func(Key) bool) {
	for _, list := range [][]Key{r.Done, r.Gone, r.Recall} {
		for _, key := range list {
			if !yield(key) {
				return
			}
		}
	}
	for _, d := range r.Dead {
		if !yield(d.Key) {
			return
		}
	}
	for _, d := range r.Released {
		if !yield(d.Key) {
			return
		}
	}
	for _, c := range r.Claims {
		if !yield(c.Key) {
			return
		}
	}
}

// plain reports whether s is a name that can be written anywhere.
func plain(s string, longest int) bool {
	return s != "" && len(s) <= longest && !strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == '"' || c == '\\' })
}

// cut shortens a reason, and makes it valid text.
func cut(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= MaxReason {
		return s
	}
	end := MaxReason
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end]
}
