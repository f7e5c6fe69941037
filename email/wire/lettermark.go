package wire

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// What mail programs put in front of a subject, in lower case and without the colon.
// There is no standard for it beyond "Re: " (RFC 5322 section 3.6.5).
var (
	// replyPrefixes are those of answers. "vs" is Finnish; that it is a forward in
	// Danish and Norwegian is the lesser harm.
	replyPrefixes = []string{
		"re", "aw", "antw", "antwort", "sv", "vs", "ref", "rif", "r", "res", "rép", "odp", "ynt", "bls", "atb", "vá", "отв", "ответ",
		"απ", "σχετ", "回复", "回覆", "答复", "答覆", "返信", "답장", "회신", "trả lời", "השב", "תגובה", "رد", "reply",
	}
	// forwardPrefixes are those of mails that are passed on.
	forwardPrefixes = []string{
		"fw", "fwd", "wg", "tr", "rv", "i", "enc", "doorst", "vb", "vl", "pd", "ilt", "пересл", "πρθ", "转发", "轉寄", "転送", "전달",
		"הועבר",
	}
	// warningPrefixes are those that mail servers put in front of mail from outside.
	warningPrefixes = []string{"external", "ext", "extern", "externe", "externo", "esterno", "spam"}

	// automaticSubjects begin those of mail that programs send for absent persons.
	automaticSubjects = []string{
		"automatic reply", "auto reply", "auto-reply", "autoreply", "[auto-reply]", "auto response", "autoresponse", "automated reply",
		"out of office", "out of the office", "out of office autoreply", "vacation", "vacation reply", "on vacation",
		"automatische antwort", "abwesenheitsnotiz", "abwesenheitsnachricht", "abwesend", "abwesenheit", "urlaub",
		"réponse automatique", "absence du bureau", "respuesta automática", "fuera de la oficina", "risposta automatica", "fuori sede",
		"automatisch antwoord", "afwezig", "resposta automática", "fora do escritório", "autosvar", "automatiskt svar", "automatisk svar",
		"frånvaro", "automaattinen vastaus", "poissaoloilmoitus", "odpowiedź automatyczna", "automatyczna odpowiedź",
		"automatická odpověď", "automatikus válasz", "автоматический ответ", "otomatik yanıt", "αυτόματη απάντηση", "自动答复", "自动回复",
		"自動回覆", "自動応答", "자동 회신",
	}
)

// maxPrefix is the longest prefix or tag of a subject, in bytes.
const maxPrefix = 60

// cutPrefixes cuts prefixes and bracketed tags off a subject, however many there are and in
// whatever order. reply and forward say what the first prefix of an answer or of a forward
// is. A subject of a tag alone is left as it is.
func cutPrefixes(subject string) (rest string, reply, forward bool) {
	rest = strings.TrimSpace(subject)
	for rest != "" {
		if tail, ok := cutTag(rest); ok {
			rest = tail
			continue
		}
		prefix, tail, ok := cutPrefix(rest)
		switch {
		case !ok:
			return rest, reply, forward
		case slices.Contains(replyPrefixes, prefix):
			reply = !forward
		case slices.Contains(forwardPrefixes, prefix):
			forward = !reply
		case !slices.Contains(warningPrefixes, prefix):
			return rest, reply, forward
		}
		rest = tail
	}
	return rest, reply, forward
}

// cutTag cuts off a mailing list's or a server's tag: "[name] ", "***SPAM*** ".
func cutTag(s string) (rest string, ok bool) {
	open, end := "[", "]"
	if strings.HasPrefix(s, "***") {
		open, end = "***", "***"
	}
	inner, ok := strings.CutPrefix(s, open)
	if !ok {
		return s, false
	}
	i := strings.Index(inner[:min(len(inner), maxPrefix)], end)
	if i < 0 {
		return s, false
	}
	rest = strings.TrimLeft(inner[i+len(end):], "*: ")
	return rest, rest != ""
}

// cutPrefix cuts off what comes before a colon, without the count that some programs
// write there: "Re[2]:", "RE(3):", "Re^2:".
func cutPrefix(s string) (prefix, rest string, ok bool) {
	i := strings.IndexFunc(cutText(s, maxPrefix), func(r rune) bool { return r == ':' || r == '：' })
	if i < 0 {
		return "", s, false
	}
	_, size := utf8.DecodeRuneInString(s[i:])
	prefix, rest = strings.TrimSpace(s[:i]), strings.TrimSpace(s[i+size:])
	if cut := strings.TrimRight(prefix, "0123456789[]()^*"); cut != "" {
		prefix = cut
	}
	return strings.ToLower(strings.TrimSpace(prefix)), rest, true
}

// isAutomatic reports whether the header section says that no person wrote the mail to be
// answered (RFC 3834 section 5, and what was used before and is beside it).
func isAutomatic(fields fieldList) bool {
	for _, f := range fields {
		if isAutomaticField(f) {
			return true
		}
	}
	if fields.mediaType() == "multipart/report" || isDaemon(fields) {
		return true
	}
	subject := strings.ToLower(headerText(fields.get("Subject")))
	return slices.ContainsFunc(automaticSubjects, func(s string) bool {
		rest, ok := strings.CutPrefix(subject, s)
		rest = strings.TrimSpace(rest)
		return ok && (rest == "" || strings.HasPrefix(rest, ":") || strings.HasPrefix(rest, "：") || strings.HasPrefix(rest, "-"))
	})
}

// isAutomaticField judges a field by itself. X-Auto-Response-Suppress is not among them:
// Exchange sets it in ordinary mail.
func isAutomaticField(f rawField) bool {
	value := strings.ToLower(string(unfold(f.value[:min(len(f.value), maxPattern)])))
	switch strings.ToLower(string(f.name)) {
	case "auto-submitted":
		value, _, _ = strings.Cut(value, ";") // RFC 3834 section 5.1 allows parameters
		value, _, _ = strings.Cut(value, "(")
		return strings.TrimSpace(value) != "no"
	case "precedence", "x-precedence", "preference":
		return slices.Contains([]string{"bulk", "junk", "list", "auto_reply", "auto-reply"}, value)
	case "x-autoreply", "x-auto-reply", "x-autorespond", "x-autoresponder", "x-autogenerated", "x-mail-autoreply", "x-autoreply-from":
		return value != "no" && value != "false"
	case "list-id", "list-unsubscribe", "x-failed-recipients":
		return true
	case "return-path":
		return strings.ReplaceAll(value, " ", "") == "<>"
	case "delivered-to":
		return value == "autoresponder"
	}
	return false
}

// isDaemon reports whether the sender is a mail server, or an address at which nobody reads.
func isDaemon(fields fieldList) bool {
	return isServer(fields) || strings.Contains(senderName(fields), "noreply") || strings.Contains(senderName(fields), "donotreply")
}

// isServer reports whether the sender is a mail server.
func isServer(fields fieldList) bool {
	return slices.Contains([]string{"mailerdaemon", "maildaemon", "postmaster", "maildeliverysystem"}, senderName(fields))
}

// senderName returns the local part of the sender's address, of letters alone.
func senderName(fields fieldList) string {
	from := string(fields.get("From"))
	for address := range addresses([]byte(from)) {
		from = address
		break
	}
	local, _, _ := strings.Cut(from, "@")
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, cutText(local, MaxAddress))
}
