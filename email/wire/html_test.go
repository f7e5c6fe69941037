package wire

import (
	"strings"
	"testing"
)

func TestHTML(t *testing.T) {
	for name, c := range map[string]struct{ html, want string }{ // quoted lines with ">", attributions with "@"
		"nothing":            {"", ""},
		"text":               {"yes", "yes"},
		"blanks":             {"  yes \r\n\t and <b> no</b> <i>x</i>y ", "yes and no xy"},
		"entities":           {"a&nbsp;&nbsp;b &lt;c&gt; &amp;amp; &#8364; &unknown; &", "a  b <c> &amp; € &unknown; &"},
		"breaks":             {"a<br>b<BR/>c<br /><br>d", "a|b|c||d"},
		"divisions":          {"<div>a</div><div>b<div>c</div></div>d", "a|b|c|d"},
		"an empty division":  {"<div>a</div><div><br></div><div>b</div>", "a||b"},
		"a break at the end": {"<div>a<br></div><div>b</div>", "a|b"},
		"paragraphs":         {"<p>a</p>\n<p>b<p>c", "a||b||c"},
		"Outlook's":          {"<p class=MsoNormal>a</p><p class=\"MsoNormal\">b</p><p class=MsoNormal>&nbsp;</p><p>c</p>", "a|b| ||c"},
		"headings":           {"<h1>a</h1>b", "a|b"},
		"a list":             {"<ul><li>a<li>b</ul>c", "- a|- b|c"},
		"a table":            {"<table><tr><td>a</td><td>b</td></tr><tr><th>c<td>d</table>", "a b|c d"},
		"preformatted":       {"<pre>a  b\n  c\n</pre>d", "a  b|  c|d"},
		"a rule":             {"a<hr>b", "a|b"},
		"not shown":          {"<title>t</title><style>p{}</style><script>alert('<p>')</script><!-- c --><template>x</template>a<![CDATA[b]]>", "a"},
		"head not closed":    {"<html><head><meta charset=utf-8><body>a", "a"},
		"links":              {"<a href='https://example.org'>a</a> <img src=x alt=y>", "a"},
		"not closed":         {"<div><b>a<div>b", "a|b"},
		"closed too often":   {"</div></p></blockquote>a</div>b", "a|b"},
		"broken off":         {"a<div class=\"x", "a"},
		"controls":           {"a\x00b&#27;c&#13;d\ufeff", "abc d"},
		"quotation":          {"a<blockquote>b<blockquote>c</blockquote>d</blockquote>e", "a|>b|>>c|>d|e"},
		"quotation not ended": {
			"<div><blockquote><div>a</div></div>b", ">a|b"},
		"a cell in a quotation": {"<blockquote><table><tr><td>a</blockquote></div>b</td></tr></table>c</blockquote>d", ">a|>b|>c|d"},
		"indentation":           {`<blockquote style="margin: 0 0 0 40px; border: none; padding: 0px;">a</blockquote>`, "a"},
		"Gmail":                 {`a<div class="gmail_quote"><div dir="ltr" class="gmail_attr">B:<br></div><blockquote>c</blockquote></div>`, "a|@B:|>c"},
		"Thunderbird":           {`a<div class="moz-cite-prefix">B:<br></div><blockquote>c</blockquote>`, "a|@B:|>c"},
		"GMX":                   {`a<div name="quote" style="x">b<div>c</div></div>d`, "a|>b|>c|d"},
		"Yahoo":                 {`a<div id="ydp1" class="yahoo_quoted">b</div>`, "a|>b"},
		"signatures": {`a<div class="gmail_signature">b</div><div id=Signature>c</div><span class="gmail_signature_prefix">-- <span>d</span> </span>e` +
			`<div class="moz-signature">f</div><div id="ms-outlook-mobile-signature"><p>g</p></div>`, "a|e"},
		"an ordinary class": {`<div class="Signature gmail_quote quote">a</div>`, "a"},
		"after the cut":     {`a<div id="appendonsend"></div><hr><div>b</div>`, "a|#b"},
		"after Outlook's":   {`a<div id="divRplyFwdMsg">b</div>c`, "a|#b|#c"},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, l := range htmlLines(c.html) {
				line := strings.Repeat(">", l.quote) + l.text
				if l.mark&markAttribution != 0 {
					line = "@" + line
				}
				if l.mark&markCut != 0 {
					line = "#" + line
				}
				got = append(got, line)
			}
			if s := strings.Join(got, "|"); s != c.want {
				t.Errorf("%s\ngives %q,\nwant  %q", c.html, s, c.want)
			}
		})
	}
}

// TestDeepHTML checks that quotations are known as such below the depth that is kept.
func TestDeepHTML(t *testing.T) {
	deep := strings.Repeat("<div>", 10*maxElements)
	lines := htmlLines("<blockquote>" + deep + "a" + strings.Repeat("</div>", 10*maxElements) + "b</blockquote>c" + deep + "d")
	got := ""
	for _, l := range lines {
		got += strings.Repeat(">", l.quote) + l.text + " "
	}
	if got != ">a >b c d " {
		t.Errorf("got %q", got)
	}
}
