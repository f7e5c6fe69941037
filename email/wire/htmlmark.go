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

// attribute returns the effect of an element after regard to one of its attributes.
func (h *htmlText) attribute(tag atom.Atom, does effect, key string, value []byte) effect {
	switch key {
	case "class", "id":
		for name := range bytes.FieldsSeq(value[:min(len(value), maxPattern)]) {
			does |= h.class(string(name), key == "id")
		}
	case "name":
		if tag == atom.Div && string(value) == "quote" { // GMX, WEB.DE, mail.com
			does |= quotes
		}
	case "style":
		style := bytes.ReplaceAll(value[:min(len(value), maxPattern)], []byte(" "), nil)
		switch {
		case tag == atom.Div && bytes.Contains(style, []byte("border-top:solid")): // Outlook
			h.mark |= markRule
		case tag == atom.Blockquote && bytes.Contains(style, []byte("border:none")): // Gmail, Apple Mail: text moved in
			does &^= quotes
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
		h.mark |= markCut
	case !id && name[:min(len(name), 3)] == "Mso": // Outlook's lines are paragraphs
		h.tight = true
	}
	return 0
}
