package wire

import (
	"strings"
	"testing"
)

func TestOwnWordsOfReplies(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"nothing":                   {"", ""},
		"no quotation":              {"yes\n", "yes"},
		"blank lines":               {"\n \n  yes\n\t\nno \n\n", "  yes\n\nno"},
		"below":                     {"yes\n\n> question", "yes"},
		"above":                     {"> question\n> more\n\nyes", "yes"},
		"between":                   {"> a?\nyes\n> b?\n> c?\n\nno\n", "yes\n\nno"},
		"nested":                    {">> a\n> > b\n>>>c\nyes", "yes"},
		"empty lines in it":         {"yes\n> a\n\n> b\n\n\n> c", "yes"},
		"a mark inside":             {"5 > 4\n > 3", "5 > 4\n > 3"},
		"a store's mark":            {"yes\n\n>From now on.\n", "yes\n\nFrom now on."},
		"a mark by a writer":        {"> a\n>From b\nyes", "yes"},
		"attribution":               {"yes\n\nOn 21 Nov 2026 at 12:44, Robot <robot@example.org> wrote:\n\n> question", "yes"},
		"attribution at once":       {"yes\nOn 21/11/26 12:44, Robot wrote:\n> question", "yes"},
		"attribution above":         {"Robot wrote:\n> question\nyes", "yes"},
		"attribution in two":        {"yes\n\nOn Sat, Nov 21, 2026 at 12:44 PM Robot <\nrobot@example.org> wrote:\n\n> question", "yes"},
		"attribution in three":      {"yes\n\nOn Saturday, 21 November 2026 at 12:44:05 Central European Time,\nThe Robot\n<robot@example.org> wrote:\n> question", "yes"},
		"attribution, name later":   {"yes\n\nOn Saturday, 21 November 2026 at 12:44:05,\nRobot wrote:\n> question", "yes"},
		"German":                    {"ja\n\nAm Sa., 21. Nov. 2026 um 12:44 Uhr schrieb Robot <robot@example.org>:\n\n> Frage", "ja"},
		"German, name first":        {"ja\n\nRobot schrieb am 21.11.2026 12:44:\n> Frage", "ja"},
		"French":                    {"oui\n\nLe sam. 21 nov. 2026 à 12:44, Robot <robot@example.org> a\u00a0écrit\u00a0:\n\n> question", "oui"},
		"Spanish":                   {"sí\n\nEl sáb, 21 nov 2026 a las 12:44, Robot (<robot@example.org>) escribió:\n\n> ?", "sí"},
		"Italian":                   {"sì\n\nIl giorno sab 21 nov 2026 alle ore 12:44 Robot <robot@example.org> ha scritto:\n\n> ?", "sì"},
		"Dutch":                     {"ja\n\nOp za 21 nov 2026 om 12:44 schreef Robot <robot@example.org>:\n> ?", "ja"},
		"Polish":                    {"tak\n\nsob., 21 lis 2026 o 12:44 Robot <robot@example.org> napisał(a):\n> ?", "tak"},
		"Russian":                   {"да\n\nсб, 21 нояб. 2026 г. в 12:44, Robot <robot@example.org>:\n> ?", "да"},
		"Japanese":                  {"はい\n\n2026年11月21日(土) 12:44 Robot <robot@example.org>:\n> ?", "はい"},
		"Chinese":                   {"好\n\nRobot <robot@example.org> 于2026年11月21日周六 12:44写道：\n> ?", "好"},
		"Danish":                    {"ja\n\nlør. 21. nov. 2026 kl. 12.44 skrev Robot\n<robot@example.org>:\n> ?", "ja"},
		"no quotation marks":        {"yes\n\nOn Sat, 21 Nov 2026 at 12:44, Robot <robot@example.org> wrote:\n\nquestion\nmore", "yes"},
		"own words with a colon":    {"In short:\n> a?\nyes", "In short:\n\nyes"},
		"own words with a time":     {"At 12:44 it failed:\n\n\n\n> a?", "At 12:44 it failed:"},
		"own words like a start":    {"On the server I use 2 disks\nRobot wrote:\n> a?", "On the server I use 2 disks"},
		"own words with a start":    {"Am Montag geht es.\nRobot schrieb am 21.11.2026 12:44:\n> a?", "Am Montag geht es."},
		"far from the quotation":    {"He wrote:\n\n\n\n> a?", "He wrote:"},
		"original message":          {"yes\n\n-----Original Message-----\nFrom: Robot\nquestion", "yes"},
		"original message, quoted":  {"-----Original Message-----\n> From: Robot\n> question\n\nyes", "yes"},
		"original message, dashes":  {"yes\n________ Ursprüngliche Nachricht ________\nFrage", "yes"},
		"Apple's forward":           {"see\n\nBegin forwarded message:\n\nFrom: x", "see"},
		"own dashes":                {"-- yes --\n--- no ---\n-----", "-- yes --\n--- no ---\n-----"},
		"Outlook":                   {"yes\n\nFrom: Robot <robot@example.org>\nSent: Saturday\nTo: Alice\nSubject: /approve\n\nquestion", "yes"},
		"Outlook, bold":             {"yes\n\n*From:* Robot <robot@example.org>\n*Sent:* Saturday\n*To:* Alice\n*Subject:* /approve\n\nquestion", "yes"},
		"Outlook, empty lines":      {"yes\n\nVon: Robot\n\nGesendet: Samstag\n\nAn: Alice\n\nBetreff: /approve\n\nFrage", "yes"},
		"Outlook, ruled":            {"yes\n________________________________\nDe : Robot <robot@example.org>\nEnvoyé : samedi\nÀ : Alice\nObjet : /approve\n\nquestion", "yes"},
		"Outlook, unknown language": {"yes\n________________________________\nSaatja: Robot <robot@example.org>\nSaadetud: 21. november\nTeema: x\n\n?", "yes"},
		"Outlook, marked":           {"yes\n\nFrom: Robot\nSent: Saturday\nSubject: /approve\n\n> question\n\nno", "yes\n\nno"},
		"own fields":                {"From: Berlin\nTo: Paris\nDate: tomorrow\n", "From: Berlin\nTo: Paris\nDate: tomorrow"},
		"own fields, ruled":         {"x: 1\n________________________________\nfrom: a\nb: 2\nc: 3", "x: 1\n________________________________\nfrom: a\nb: 2\nc: 3"},
		"signature":                 {"yes\n-- \nAlice\nRobotics\n", "yes"},
		"signature, long":           {"yes\n-- \n" + strings.Repeat("line\n", 40), "yes"},
		"signature, no blank":       {"yes\n\n--\nAlice", "yes"},
		"dashes, long text":         {"a\n--\n" + strings.Repeat("line\n", 10), "a\n--\n" + strings.Repeat("line\n", 9) + "line"},
		"signature, quote below":    {"yes\n-- \nAlice\n\nOn 21 Nov 2026 12:44, Robot wrote:\n> a?\n\nPS: no", "yes\n\nPS: no"},
		"signature quoted":          {"> a?\n> -- \n> Robot\nyes", "yes"},
		"signature alone":           {"-- \nAlice", ""},
		"iPhone":                    {"yes\n\nSent from my iPhone\n\n> a?", "yes"},
		"iPhone, German":            {"ja\n\nVon meinem iPhone gesendet", "ja"},
		"Android":                   {"ja\nGesendet von meinem Android-Mobiltelefon mit K-9 Mail.", "ja"},
		"Outlook for iOS":           {"yes\n\nGet Outlook for iOS", "yes"},
		"Samsung, Spanish":          {"sí\n\nEnviado desde mi smartphone Samsung Galaxy.", "sí"},
		"iPhone, Japanese":          {"はい\n\niPhoneから送信", "はい"},
		"a sentence on phones":      {"Von meinem Handy aus geht es nicht", "Von meinem Handy aus geht es nicht"},
		"a sentence on sending":     {"Sent from my lab, five samples", "Sent from my lab, five samples"},
		"a phone in the middle":     {"Sent from my iPhone\nyes", "Sent from my iPhone\nyes"},
		"list footer":               {"yes\n_______________________________________________\nrobots mailing list\nrobots@lists.example.org", "yes"},
		"a rule":                    {"yes\n_______________________________________________\nno", "yes\n_______________________________________________\nno"},
		"nothing of her own":        {"> a\n> b", ""},
		"nothing but Outlook":       {"From: a\nSent: b\nSubject: c\n\nquestion", ""},
		"one line, indented":        {"   yes   ", "yes"},
		"only marks":                {">\n>>\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := ownWords(quotedLines(c.text), true); got != c.want {
				t.Errorf("%q\ngives %q,\nwant  %q", c.text, got, c.want)
			}
		})
	}
}

func TestOwnWordsOfNewMails(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"words":               {"hello\n", "hello"},
		"signature":           {"hello\n-- \nAlice", "hello"},
		"marked lines":        {"> quoted\nhello\n>> twice\n", "> quoted\nhello\n>> twice"},
		"only marked lines":   {"> quoted\n", "> quoted"},
		"a quotation":         {"See:\nOn 21 Nov 2026 12:44, Bob <bob@example.org> wrote:\n> lunch\n\nYes.", "See:\n\nYes."},
		"a forward":           {"See:\n\n-------- Forwarded Message --------\nFrom: Bob\n\nlunch", "See:"},
		"a forward alone":     {"---------- Forwarded message ---------\nFrom: Bob\n\n> lunch", "---------- Forwarded message ---------\nFrom: Bob\n\n> lunch"},
		"fields":              {"a\n\nFrom: x\nDate: y\nSubject: z\n", "a\n\nFrom: x\nDate: y\nSubject: z"},
		"fields of a mail":    {"a\n________________________________\nFrom: x\nDate: y\nSubject: z\n", "a"},
		"words like a report": {"On 21 Nov 2026 at 12:44 Bob <bob@example.org> wrote:\nlunch", "On 21 Nov 2026 at 12:44 Bob <bob@example.org> wrote:\nlunch"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := ownWords(quotedLines(c.text), false); got != c.want {
				t.Errorf("%q\ngives %q,\nwant  %q", c.text, got, c.want)
			}
		})
	}
}

func TestFlowed(t *testing.T) {
	for name, c := range map[string]struct {
		text  string
		delSp bool
		want  string // lines with their depth
	}{
		"nothing":               {"", false, "0:"},
		"fixed":                 {"a\nb", false, "0:a|0:b"},
		"flows":                 {"a \nb\nc", false, "0:a b|0:c"},
		"flows without blank":   {"a \nb", true, "0:ab"},
		"flows to the end":      {"a \nb ", false, "0:a b "},
		"stuffed":               {" > a\n  b\n From c", false, "0:> a|0: b|0:From c"},
		"quoted":                {"> a \n> b\n>> c", false, "1:a b|2:c"},
		"depth changes":         {"> a \n>> b \nc", false, "1:a |2:b |0:c"},
		"depth changes, blanks": {"> a \n> > b", false, "1:a > b"}, // a blank is stuffing, so the mark is text
		"signature is fixed":    {"a \n-- \nb", false, "0:a |0:-- |0:b"},
		"signature quoted":      {"> a\n> -- \n> b", false, "1:a|1:-- |1:b"},
		"empty lines":           {"a\n\n \n  \nb", false, "0:a|0:|0:|0: b"},
		"marks without a blank": {">a \n>b", false, "1:a b"},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, l := range flowedLines(c.text, c.delSp) {
				got = append(got, string(rune('0'+l.quote))+":"+l.text)
			}
			if s := strings.Join(got, "|"); s != c.want {
				t.Errorf("%q gives %q, want %q", c.text, s, c.want)
			}
		})
	}
}
