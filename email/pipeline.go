package email

import (
	"bufio"
	"bytes"
	"fmt"
	"net/textproto"
	"slices"
	"strconv"
)

// oneFlight is the largest mail, in bytes, that goes in one flight with its envelope, before the server has said
// whether it wants it. What a server has not read with the envelope it reads after its first replies have been sent, and
// then its last one waits until those have been acknowledged (Nagle's algorithm, RFC 896), which takes the client's system 40 ms as there is
// nothing to send: Postfix reads 4 KiB at a time.
const oneFlight = 4<<10 - 256 // the rest is for the envelope

// shape is how a transaction is divided into flights, each of which takes a round trip (RFC 2920).
type shape int

const (
	// byData is MAIL, RCPT and DATA in one flight, and the mail in another.
	byData shape = iota
	// byChunk is MAIL and RCPT in one, and BDAT (RFC 3030) with the mail in another.
	byChunk
	// inOne is MAIL, RCPT and BDAT with the mail in one.
	inOne
)

// shape returns the fastest that is safe. When one of several recipients is refused the others are not to
// get the mail either, so it is kept back until all have been accepted.
func (c *submission) shape(m outgoing) shape {
	switch {
	case !c.chunking:
		return byData
	case len(m.recipients) > 1 || len(m.raw) > oneFlight:
		return byChunk
	}
	return inOne
}

// pipeline runs a mail transaction on a server that takes commands in advance. See submit.
func (c *submission) pipeline(m outgoing, taken *bool) error {
	shape := c.shape(m)
	flight := c.appendEnvelope(c.flight[:0], m)
	switch shape {
	case byData:
		flight = append(flight, "DATA\r\n"...)
	case inOne:
		flight = appendChunk(flight, m.raw)
	}
	c.flight = flight
	whole, err := c.say(flight)
	if err != nil {
		*taken = whole && shape == inOne
		return fmt.Errorf("sending the envelope: %w", err)
	}
	c.sent.Store(shape == inOne)
	v, err := c.hearEnvelope(m)
	c.answered = err == nil
	switch {
	case err != nil:
		c.broken, *taken = true, shape == inOne
		return err
	case v.refusal != nil && c.broken:
		return v.refusal // nothing more will be said
	case shape == byData:
		return c.proceed(m, v, taken)
	case v.refusal == nil && shape == inOne:
		return c.hearMail(m.recipients, taken)
	case v.refusal == nil:
		return c.sendMail(m, appendChunk(nil, m.raw), taken)
	case shape == inOne:
		return c.hearUnwanted(v, taken)
	}
	return c.abandon(v.refusal)
}

// appendEnvelope appends MAIL and RCPT. The addresses have been checked.
func (c *submission) appendEnvelope(b []byte, m outgoing) []byte {
	b = append(append(append(b, "MAIL FROM:<"...), m.from...), '>')
	if c.eightBit {
		b = append(b, " BODY=8BITMIME"...)
	}
	if c.size {
		b = strconv.AppendInt(append(b, " SIZE="...), int64(len(m.raw)), 10)
	}
	b = append(b, "\r\n"...)
	for _, to := range m.recipients {
		b = append(append(append(b, "RCPT TO:<"...), to...), ">\r\n"...)
	}
	return b
}

// appendChunk appends a mail as BDAT takes it.
func appendChunk(b, raw []byte) []byte {
	end := ""
	if !bytes.HasSuffix(raw, []byte("\r\n")) {
		end = "\r\n" // as DATA would
	}
	b = slices.Grow(b, len(raw)+64)
	b = strconv.AppendInt(append(b, "BDAT "...), int64(len(raw)+len(end)), 10)
	return append(append(append(b, " LAST\r\n"...), raw...), end...)
}

// dotted returns a mail as DATA takes it (RFC 5321 section 4.5.2).
func dotted(raw []byte) []byte {
	var b bytes.Buffer
	b.Grow(len(raw) + len(raw)/64)
	w := textproto.NewWriter(bufio.NewWriter(&b)).DotWriter()
	// A buffer takes everything.
	_, _ = w.Write(raw)
	_ = w.Close()
	return b.Bytes()
}

// say sends a flight. If that fails, whole says that all of it may have got through nevertheless.
func (c *submission) say(flight []byte) (whole bool, err error) {
	n, err := c.talk.Write(flight)
	if err != nil {
		c.broken = true
	}
	return n == len(flight), err
}

// hearing is what the server says to an envelope.
type hearing struct {
	refusal  error // the first reply that is no yes
	code     int   // of that
	accepted int   // recipients
}

// final reports whether the refusal says in so many words that the mail is not taken.
func (v *hearing) final() bool { return v.code/100 == 4 || v.code/100 == 5 }

// hearEnvelope reads the replies to MAIL and RCPT, as far as they matter: if the connection ends after a
// refusal, that is what counts.
func (c *submission) hearEnvelope(m outgoing) (v hearing, err error) {
	about := "sender " + m.from
	for i := -1; i < len(m.recipients); i++ {
		if i >= 0 {
			about = "recipient " + m.recipients[i]
		}
		reply, err := c.talk.reply(commandTimeout)
		if err != nil {
			c.broken = true
			if v.final() {
				return v, nil
			}
			return v, fmt.Errorf("%s: %w", about, err)
		}
		yes := reply.Code == 250 || i >= 0 && reply.Code/10 == 25
		if i >= 0 && reply.Code/100 == 2 {
			v.accepted++
		}
		if !yes && v.refusal == nil {
			v.refusal, v.code = aboutEnvelope{explainReply(about, reply, i >= 0)}, reply.Code
		}
		if reply.Code == 421 {
			c.broken = true
			return v, nil
		}
	}
	return v, nil
}

// proceed hears what the server says to DATA, which came behind the envelope, and sends the mail if nothing was refused.
func (c *submission) proceed(m outgoing, v hearing, taken *bool) error {
	reply, err := c.talk.reply(commandTimeout)
	switch {
	case err != nil && v.refusal == nil:
		c.broken = true
		return fmt.Errorf("DATA: %w", err)
	case err != nil:
		c.broken = true
		return v.refusal
	case reply.Code != 354:
		if v.refusal == nil {
			v.refusal = explainReply("DATA", reply, false)
		}
		return c.abandon(v.refusal)
	case v.refusal == nil:
		return c.sendMail(m, dotted(m.raw), taken)
	case v.accepted > 0 || c.lmtp():
		// The server waits for the mail, and would give even an empty one to those that it has
		// accepted. Only the end of the connection keeps it from that (RFC 5321 section 4.1.1.10).
		c.broken = true
		return v.refusal
	}
	// With no recipient it is safe to send an empty mail, which RFC 2920 section 3.1 asks for.
	if _, err := c.say([]byte(".\r\n")); err != nil {
		return v.refusal
	}
	if _, err := c.talk.reply(commandTimeout); err != nil {
		c.broken = true
		return v.refusal
	}
	return c.abandon(v.refusal)
}

// hearUnwanted hears what the server says to a mail that was sent although, as it turned out, the envelope was
// refused.
func (c *submission) hearUnwanted(v hearing, taken *bool) error {
	reply, err := c.talk.reply(commandTimeout)
	if err == nil && reply.Code/100 != 2 {
		return c.abandon(v.refusal)
	}
	c.broken = true
	// What has been refused is not taken, unless the server contradicts itself.
	*taken = !v.final() || err == nil && v.accepted > 0
	return v.refusal
}

// abandon ends a transaction in which something was refused. Without RSET the next mail would
// be part of it.
func (c *submission) abandon(refusal error) error {
	if c.broken = leaves(refusal); c.broken {
		return refusal
	}
	if _, err := c.say([]byte("RSET\r\n")); err != nil {
		return refusal
	}
	reply, err := c.talk.reply(commandTimeout)
	c.broken = err != nil || reply.Code != 250
	return refusal
}

// sendMail sends the mail after all that comes before has been accepted.
func (c *submission) sendMail(m outgoing, flight []byte, taken *bool) error {
	whole, err := c.say(flight)
	if err != nil {
		*taken = whole
		return fmt.Errorf("sending the mail: %w", err)
	}
	c.sent.Store(true)
	return c.hearMail(m.recipients, taken)
}

// hearMail hears what the server says to the whole mail.
func (c *submission) hearMail(recipients []string, taken *bool) error {
	if c.lmtp() {
		return c.hearEach(recipients, taken)
	}
	reply, err := c.talk.reply(submissionTimeout)
	if err == nil {
		err = reply
	}
	return c.conclude(taken, err)
}
