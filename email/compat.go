package email

import (
	"slices"

	"github.com/postbus/postbus/email/wire"
	"github.com/postbus/postbus/transport"
)

// compat says which messages are written for rmw_email: all, or those of some routes.
type compat struct {
	all      bool
	patterns []string // of those routes
	routes   transport.Routes
}

// covers reports whether messages of this name are for programs of rmw_email. The first
// route that matches counts, as for recipients.
func (c compat) covers(name string) bool {
	if c.all || len(c.patterns) == 0 {
		return c.all
	}
	i := slices.IndexFunc(c.routes, func(r transport.Route) bool { return transport.MatchName(r.Pattern, name) })
	return i >= 0 && slices.Contains(c.patterns, c.routes[i].Pattern)
}

// encode returns a message as a mail that its recipients can read, and whether the mail
// has bytes beyond ASCII.
func (c compat) encode(m *transport.Message, e wire.Envelope) (raw []byte, eightBit bool, err error) {
	if !c.forRMW(m) {
		raw, err = wire.Encode(m, e)
		return raw, false, err
	}
	raw, err = wire.EncodeRMW(m, e)
	return raw, wire.Is8Bit(raw), err
}

// forRMW reports whether a message is for a program of rmw_email. A client of rmw_email,
// which its short GID gives away, can read nothing else; a person's mail client, to whom
// no GID leads, can read it badly.
func (c compat) forRMW(m *transport.Message) bool {
	if m.Kind == transport.Response || m.Kind == transport.ErrorResponse {
		client := m.Info.ClientGID
		if client.IsZero() {
			return false
		}
		if client == client.Short() {
			return true
		}
	}
	return c.covers(m.Name)
}
