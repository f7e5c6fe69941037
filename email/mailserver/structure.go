package mailserver

import (
	"bufio"
	"bytes"
	"io"
	"strings"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"
	gomessage "github.com/emersion/go-message"
	"github.com/emersion/go-message/textproto"
)

// structure returns the MIME structure of the message. imapserver has a
// function for it, but its encoder panics on the multipart without parts that
// the function makes of a malformed mail, and it follows any depth.
func (m *message) structure() imap.BodyStructure {
	header, text := m.split()
	return structure(parseHeader(header), text, 0)
}

func structure(raw textproto.Header, body []byte, depth int) imap.BodyStructure {
	header := gomessage.Header{Header: raw}
	mediaType, params, err := header.ContentType()
	primary, sub, ok := strings.Cut(mediaType, "/")
	if err != nil || !ok {
		// RFC 2045 section 5.2 for a field that cannot be understood.
		primary, sub, params = "text", "plain", nil
	}
	container := primary == "multipart" || primary == "message" && (sub == "rfc822" || sub == "global")
	switch {
	case container && depth == maxPartDepth:
		primary, sub = "application", "octet-stream"
	case primary == "multipart":
		if multi := multipart(header, sub, params, body, depth); multi != nil {
			return multi
		}
		primary, sub = "application", "octet-stream"
	}
	lines := int64(bytes.Count(body, []byte("\n")))
	single := &imap.BodyStructureSinglePart{
		Type:        primary,
		Subtype:     sub,
		Params:      params,
		ID:          header.Get("Content-Id"),
		Description: header.Get("Content-Description"),
		Encoding:    header.Get("Content-Transfer-Encoding"),
		Size:        uint32(len(body)),
		Extended: &imap.BodyStructureSinglePartExt{
			Disposition: disposition(header),
			Language:    languages(header),
			Location:    header.Get("Content-Location"),
		},
	}
	switch {
	case primary == "text":
		single.Text = &imap.BodyStructureText{NumLines: lines}
	case primary == "message" && container:
		n := headerEnd(body)
		inner := parseHeader(body[:n])
		single.MessageRFC822 = &imap.BodyStructureMessageRFC822{
			Envelope:      imapserver.ExtractEnvelope(inner),
			BodyStructure: structure(inner, body[n:], depth+1),
			NumLines:      lines,
		}
	}
	return single
}

// multipart returns the structure of a multipart, or nil if it has no part.
func multipart(header gomessage.Header, sub string, params map[string]string, body []byte, depth int) imap.BodyStructure {
	multi := &imap.BodyStructureMultiPart{
		Subtype: sub,
		Extended: &imap.BodyStructureMultiPartExt{
			Params:      params,
			Disposition: disposition(header),
			Language:    languages(header),
			Location:    header.Get("Content-Location"),
		},
	}
	parts := textproto.NewMultipartReader(bufio.NewReader(bytes.NewReader(body)), params["boundary"])
	for {
		part, err := parts.NextPart()
		if err != nil || part == nil {
			break
		}
		content, _ := io.ReadAll(part) // a cut-off part counts as far as it goes
		multi.Children = append(multi.Children, structure(part.Header, content, depth+1))
	}
	if len(multi.Children) == 0 {
		return nil
	}
	return multi
}

func disposition(header gomessage.Header) *imap.BodyStructureDisposition {
	value, params, err := header.ContentDisposition()
	if err != nil || value == "" {
		return nil
	}
	return &imap.BodyStructureDisposition{Value: value, Params: params}
}

func languages(header gomessage.Header) []string {
	var tags []string
	for tag := range strings.SplitSeq(header.Get("Content-Language"), ",") {
		if tag = strings.TrimSpace(tag); tag != "" {
			tags = append(tags, tag)
		}
	}
	return tags
}
