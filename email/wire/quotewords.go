package wire

import (
	"slices"
	"strings"
	"unicode"
)

// Words by which mail programs introduce what is not the writer's own. They are matched in
// lower case. A program or language that is missing here costs no words: what it
// adds is kept.

const (
	// maxPattern is the longest line that is compared with patterns, in bytes.
	maxPattern = 400
	// maxAttribution is the most lines that a mail program breaks an attribution into.
	maxAttribution = 4
	// maxLabel is the longest label of a header block, with its marks, in bytes.
	maxLabel = 40
	// maxHeaderBlock is the most lines of a header block in a text.
	maxHeaderBlock = 16
)

// attributionVerbs are in lines like "On 21 November Alice wrote:".
var attributionVerbs = []string{
	" wrote", " writes", " schrieb", " a écrit", " escribió", " escribio", " ha scritto", " schreef", " escreveu",
	" skrev", " kirjoitti", " napisał", " pisze", " napsal", " napísal", " je napisao", " írta", " a scris", " yazdı",
	" написал", " пишет", " писал", " написав", " έγραψε", " viết", " menulis", " va escriure", " rašė", " rakstīja",
	"写道", "寫道", "写", "작성", "כתב",
}

// attributionStarts begin such a line with a date.
var attributionStarts = []string{
	"on ", "am ", "le ", "el ", "il ", "op ", "em ", "den ", "dne ", "w dniu ", "dnia ", "pe ", "în ", "в ", "на ",
	"tanggal ", "pada ", "vào ", "στις ", "在",
}

// separators stand between dashes before a mail that is not marked otherwise.
var separators = []string{
	"original message", "original email", "reply message", "forwarded message", "begin forwarded message", "forwarded mail",
	"ursprüngliche nachricht", "originalnachricht", "original-nachricht", "originalmeldung", "weitergeleitete nachricht",
	"anfang der weitergeleiteten nachricht", "urspr. nachricht",
	"message d'origine", "message d’origine", "message original", "message transféré", "message initial",
	"début du message réexpédié", "mensaje original", "mensaje reenviado", "inicio del mensaje reenviado",
	"messaggio originale", "messaggio inoltrato", "inizio messaggio inoltrato", "oorspronkelijk bericht",
	"oorspronkelijke bericht", "doorgestuurd bericht", "mensagem original", "mensagem encaminhada",
	"oprindelig meddelelse", "opprinnelig melding", "ursprungligt meddelande", "vidarebefordrat meddelande",
	"alkuperäinen viesti", "wiadomość oryginalna", "oryginalna wiadomość", "původní zpráva", "eredeti üzenet",
	"исходное сообщение", "пересылаемое сообщение", "пересланное сообщение", "orijinal mesaj", "αρχικό μήνυμα",
	"原始邮件", "原始郵件", "邮件原件", "转发的邮件", "元のメッセージ", "転送メッセージ", "원본 메시지", "원본 메일",
}

// label is what a line of a header block in a text says.
type label uint8

const (
	labelFrom label = 1 << iota
	labelDate
	labelTo
	labelSubject
	labelOther
	labelUnknown // of a language that is not known here
	labelNone    // the line has no label
)

// labels are the field names that mail programs write into a text.
var labels = func() map[string]label {
	m := make(map[string]label)
	for l, names := range map[label]string{
		labelFrom: "from|von|de|da|van|från|fra|lähettäjä|od|от|від|expéditeur|remitente|mittente|afzender|gönderen|kimden|" +
			"feladó|από|发件人|寄件者|寄件人|差出人|送信者|보낸 사람|보낸사람|מאת",
		labelDate: "sent|date|date sent|gesendet|gesendet am|datum|envoyé|envoyé le|enviado|enviado el|enviada em|fecha|inviato|" +
			"data|verzonden|skickat|sendt|dato|lähetetty|päivämäärä|wysłano|data wysłania|odesláno|отправлено|дата|надіслано|" +
			"gönderildi|tarih|elküldve|dátum|ημερομηνία|发送时间|日期|寄件日期|送信日時|日時|日付|보낸 날짜|날짜|תאריך",
		labelTo: "to|an|à|a|para|per|aan|till|til|vastaanottaja|do|komu|кому|destinataire|destinatario|alıcı|kime|címzett|προς|" +
			"收件人|收件者|宛先|받는 사람|받는사람|אל",
		labelSubject: "subject|betreff|objet|sujet|asunto|assunto|oggetto|onderwerp|ämne|emne|aihe|temat|předmět|predmet|тема|" +
			"konu|tárgy|θέμα|主题|主旨|主題|件名|제목|נושא",
		labelOther: "cc|bcc|cco|ccn|kopie|kopia|kopi|copie|copia|kopio|dw|копия|抄送|副本|참조|reply-to|reply to|antwort an|" +
			"importance|wichtigkeit|priorität|priority|attachments|anlagen|organization|organisation",
	} {
		for name := range strings.SplitSeq(names, "|") {
			m[name] = l
		}
	}
	return m
}()

// mobileSignatures are how programs, mostly on phones, sign for those who have not set a
// signature: what the line begins with, and what it ends with.
var mobileSignatures = [][2]string{
	{"sent from my ", ""}, {"sent from outlook", ""}, {"sent from yahoo", ""}, {"sent from mail for", ""},
	{"sent from proton", ""}, {"sent with proton", ""}, {"sent from samsung", ""}, {"sent from gmail", ""}, {"sent via ", ""},
	{"sent from aol", ""}, {"sent from fairemail", ""}, {"get outlook for ", ""}, {"sent from android", ""},
	{"von meinem ", "gesendet"}, {"von meinem ", "gesendet."}, {"gesendet von meinem ", ""}, {"gesendet von mail", ""},
	{"gesendet von outlook", ""}, {"gesendet mit der ", ""}, {"diese nachricht wurde von meinem ", "gesendet."},
	{"outlook für ", "beziehen"}, {"holen sie sich outlook", ""},
	{"envoyé de mon ", ""}, {"envoyé depuis mon ", ""}, {"envoyé à partir de ", ""}, {"obtenez outlook pour ", ""},
	{"enviado desde mi ", ""}, {"enviado do meu ", ""}, {"enviado a partir do ", ""}, {"obtener outlook para ", ""},
	{"inviato da ", ""}, {"inviato dal mio ", ""}, {"scarica outlook per ", ""}, {"verstuurd vanaf mijn ", ""},
	{"verzonden vanaf mijn ", ""}, {"skickat från min ", ""}, {"sendt fra min ", ""}, {"lähetetty ", ""},
	{"wysłane z ", ""}, {"odesláno z ", ""}, {"отправлено с ", ""}, {"отправлено из ", ""}, {"发自我的", ""}, {"", "から送信"},
	{"", "에서 보냄"},
}

// mobileDevices are what such a signature names, so that a sentence is not taken for one.
var mobileDevices = []string{
	"iphone", "ipad", "ipod", "apple watch", "android", "samsung", "galaxy", "blackberry", "huawei", "xiaomi", "redmi", "pixel",
	"oneplus", "nokia", "windows phone", "smartphone", "mobiltelefon", "handy", "tablet", "outlook", "yahoo", "proton", "k-9", "gmx",
	"web.de", "mail for windows", "mail für windows", "gmail", "fairemail", "aol", "telekom",
}

// plainWords returns a line as it is compared with patterns: in lower case, with ordinary
// blanks and colons, without marks of writing direction.
func plainWords(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '：':
			return ':'
		case unicode.IsSpace(r):
			return ' '
		case unicode.Is(unicode.Cf, r):
			return -1
		}
		return unicode.ToLower(r)
	}, s)
	return strings.TrimSpace(s)
}

func endsInColon(s string) bool {
	s = strings.TrimRightFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) })
	return strings.HasSuffix(s, ":") || strings.HasSuffix(s, "：")
}

// rating is how sure it is that a line introduces a quotation.
type rating uint8

const (
	unlikely rating = iota
	likely          // it does if a quotation follows
	dated           // the same, and it has its date
	certain         // it does anyway
)

// rateAttribution rates a line as one that says who wrote what follows, and when.
func rateAttribution(line string) rating {
	if len(line) > maxPattern {
		return unlikely
	}
	s := plainWords(line)
	open, closed := strings.IndexByte(s, '<'), strings.IndexByte(s, '>')
	if !strings.HasSuffix(s, ":") || closed >= 0 && open < 0 || closed < open { // the rest of an attribution
		return unlikely
	}
	starts := slices.ContainsFunc(attributionStarts, func(start string) bool { return strings.HasPrefix(s, start) })
	verb := slices.ContainsFunc(attributionVerbs, func(verb string) bool { return strings.Contains(" "+s, verb) })
	n, address := digits(s), strings.ContainsRune(s, '@')
	switch {
	case starts && verb && (n >= 8 || n >= 4 && address):
		return certain
	case n >= 6 && (verb || address):
		return dated
	case verb && (n >= 2 || address || len(s) <= 80), address && n >= 4:
		return likely
	}
	return unlikely
}

func digits(s string) (n int) {
	for _, c := range []byte(s) {
		if '0' <= c && c <= '9' {
			n++
		}
	}
	return n
}

// isSeparator reports whether a line introduces the text of another mail.
func isSeparator(line string) bool {
	if len(line) > maxPattern || !strings.HasPrefix(strings.TrimSpace(line), "--") &&
		!strings.HasPrefix(line, "__") && !endsInColon(line) {
		return false
	}
	s := plainWords(line)
	inner := strings.Trim(s, "-_ *")
	if !strings.HasPrefix(s, "--") && !strings.HasPrefix(s, "__") {
		var ok bool // Apple Mail writes no dashes, but a colon
		if inner, ok = strings.CutSuffix(inner, ":"); !ok || !strings.Contains(inner, " ") {
			return false
		}
	}
	return slices.Contains(separators, strings.TrimSpace(strings.TrimSuffix(inner, ":"))) || strings.HasPrefix(inner, "forwarded message from ")
}

// headerBlock returns how many lines at the beginning of lines are header fields of
// another mail, as Outlook writes them into the text, or 0. sure is false if they are in
// no language that is known here.
func headerBlock(lines []textLine) (n int, sure bool) {
	var seen label
	count, strange := 0, 0
	address, date := false, false
	for i := range lines[:min(len(lines), maxHeaderBlock)] {
		l := &lines[i]
		if l.quote > 0 {
			break
		}
		if l.isBlank() {
			if i == 0 || lines[i-1].isBlank() {
				break
			}
			continue
		}
		kind := l.labelOf()
		if kind == labelNone {
			if strange++; count == 0 || strange > 2 { // a list of recipients goes on
				break
			}
			continue
		}
		seen |= kind
		count, strange, n = count+1, 0, i+1
		address = address || strings.ContainsRune(l.text[:min(len(l.text), maxPattern)], '@')
		date = date || strings.ContainsAny(l.text[:min(len(l.text), maxPattern)], "0123456789")
	}
	switch {
	case seen&labelFrom != 0 && seen&labelSubject != 0 && seen&(labelDate|labelTo) != 0:
		return n, true
	case count >= 3 && address && date:
		return n, false
	}
	return 0, false
}

// labelOf returns what the label of a line is. Lines are asked again and again, so the
// answer is kept.
func (l *textLine) labelOf() label {
	if l.label != 0 {
		return l.label
	}
	l.label = labelNone
	name, _, ok := strings.Cut(plainWords(cutText(l.text, maxLabel)), ":")
	if name = strings.Trim(name, "* "); ok && name != "" && strings.Count(name, " ") <= 2 {
		if l.label, ok = labels[name]; !ok {
			l.label = labelUnknown
		}
	}
	return l.label
}

// isRule reports whether a line is a rule across the page.
func isRule(line string) bool {
	line = strings.TrimSpace(line)
	return len(line) >= 20 && (strings.Trim(line, "_") == "" || strings.Trim(line, "-") == "")
}

// isFooter reports whether lines begin with what a mailing list adds to each mail.
func isFooter(lines []textLine) bool {
	if !strings.HasPrefix(lines[0].text, "____") || !isRule(lines[0].text) {
		return false
	}
	for _, l := range lines[1:min(len(lines), 4)] {
		s := strings.ToLower(l.text[:min(len(l.text), maxPattern)])
		for _, word := range [...]string{"mailing list", "mailinglist", "mailing-list", "unsubscribe", "listinfo"} {
			if strings.Contains(s, word) {
				return true
			}
		}
	}
	return false
}

// cutSignature cuts the signature off a writer's lines: from the line "-- " on (RFC 3676
// section 4.3), also if a mail program has taken the blank and little follows, and the
// line by which a phone signs.
func cutSignature(lines []textLine) []textLine {
	if i := slices.IndexFunc(lines, func(l textLine) bool { return l.text == "-- " }); i >= 0 {
		lines = lines[:i]
	} else {
		filled := 0
		for i := len(lines) - 1; i >= 0 && filled <= maxSignature; i-- {
			if lines[i].text == "--" {
				lines = lines[:i]
				break
			}
			if !lines[i].isBlank() {
				filled++
			}
		}
	}
	n := len(lines)
	for n > 0 && lines[n-1].isBlank() {
		n--
	}
	if n > 0 && isMobileSignature(lines[n-1].text) {
		return lines[:n-1]
	}
	return lines
}

// maxSignature is the most lines after "--" that are taken for a signature. McQuary's limit
// of four is not always kept.
const maxSignature = 8

func isMobileSignature(line string) bool {
	if len(line) > maxMobileSignature {
		return false
	}
	s := plainWords(line)
	return slices.ContainsFunc(mobileSignatures, func(affixes [2]string) bool {
		return strings.HasPrefix(s, affixes[0]) && strings.HasSuffix(s, affixes[1])
	}) && slices.ContainsFunc(mobileDevices, func(device string) bool { return strings.Contains(s, device) })
}

// maxMobileSignature is the longest line that is taken for a phone's signature, in bytes.
const maxMobileSignature = 100
