package wire

import (
	"bytes"
	"slices"

	"golang.org/x/net/html/atom"
)

// What mail programs write into the attributes of their HTML to find the parts of it
// again. They are the same in every language, unlike the words.
var (
	// attributionClasses hold the line that says who is quoted: Gmail, Thunderbird.
	attributionClasses = []string{"gmail_attr", "moz-cite-prefix"}
	// signatureClasses hold the signature: Gmail, Thunderbird, Open-Xchange, Proton, K-9.
	signatureClasses = []string{
		"gmail_signature", "gmail_signature_prefix", "moz-signature", "io-ox-signature", "protonmail_signature_block", "k9mail-signature",
	}
	// signatureIDs hold the signature: Apple Mail, Outlook on phones, on the web, Samsung.
	signatureIDs = []string{"AppleMailSignature", "ms-outlook-mobile-signature", "Signature", "composer_signature"}
	// quoteClasses hold a quotation without a <blockquote>, in which nobody writes: Yahoo.
	quoteClasses = []string{"yahoo_quoted"}
	// cutIDs begin what was appended when the mail was sent: Outlook.
	cutIDs = []string{"divRplyFwdMsg", "appendonsend"}
)

// attribute returns what an attribute makes of an element.
func (h *htmlText) attribute(tag atom.Atom, key string, value []byte) (does effect) {
	switch key {
	case "class", "id":
		for name := range bytes.FieldsSeq(value[:min(len(value), 256)]) {
			does |= h.class(string(name), key == "id")
		}
	case "name":
		if tag == atom.Div && string(value) == "quote" { // GMX, WEB.DE, mail.com
			return quotes
		}
	case "style":
		if tag == atom.Div && bytes.Contains(value, []byte("border-top:solid")) { // Outlook
			h.endLine()
			h.mark |= markRule
		}
	}
	return does
}

func (h *htmlText) class(name string, id bool) effect {
	switch {
	case slices.Contains(attributionClasses, name):
		return attributes
	case slices.Contains(signatureClasses, name), id && slices.Contains(signatureIDs, name):
		return hides
	case slices.Contains(quoteClasses, name):
		return quotes
	case id && slices.Contains(cutIDs, name):
		h.endLine()
		h.mark |= markCut
	}
	return 0
}
