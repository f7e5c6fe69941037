package email

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// keyError is what is wrong with a key though it is well-formed: it does not go with another one.
type keyError struct {
	key string
	err error
}

func (e keyError) Error() string { return e.key + ": " + e.err.Error() }
func (e keyError) Unwrap() error { return e.err }

// inFile checks what goes together in a file, which says nothing of a mail account if it need not.
func (c *Config) inFile(onMail bool) error {
	if c.Intraprocess && len(c.NATS.Servers) > 0 {
		return keyError{"nats", errors.New("email.intraprocess says that messages stay in the process")}
	}
	if !onMail && c.SMTP == "" {
		return nil
	}
	return c.together()
}

// together checks what goes together of a mail account.
func (c *Config) together() error {
	if err := c.Batch.check(); err != nil {
		return err
	}
	appends := 0
	for i, url := range slices.Concat([]string{c.SMTP}, c.SMTPFallbacks) {
		to, err := parseServer(url, sendSchemes)
		if err != nil {
			return keyError{"email.user.url-smtp", err}
		}
		if to.scheme.protocol == imapProtocol {
			appends++
		}
		if appends != 0 && appends != i+1 {
			return keyError{"email.user.url-smtp", errors.New("either all servers append mails to a folder, or none does")}
		}
	}
	from, err := parseServer(c.IMAP, receiveSchemes)
	if err != nil {
		return keyError{"email.user.url-imap", err}
	}
	if from.scheme.protocol != imapProtocol {
		return c.listens()
	}
	if len(c.ListenFor) > 0 {
		return keyError{"email.listen", errors.New("this is for a node that listens, and email.user.url-imap says to watch a folder")}
	}
	watched := func(key string) error {
		return keyError{key, fmt.Errorf("%q is the folder that is watched (email.user.url-imap)", from.folder)}
	}
	switch from.folder {
	case c.SkippedFolder:
		return watched("email.skipped.move")
	case c.Retention.Folder:
		return watched("retention.finished.move")
	}
	return nil
}

// listens checks that nothing is asked for that needs a mailbox.
func (c *Config) listens() error {
	key := ""
	switch {
	case c.State != "":
		key = "state"
	case c.SkippedFlag != "" || c.SkippedFolder != "":
		key = "email.skipped"
	case c.Retention.Action != RetainMessages:
		key = "retention"
	default:
		return nil
	}
	return keyError{key, errors.New("this needs a mailbox, and email.user.url-imap says to listen")}
}

// nodeAt returns the node behind a key, or that of the section in which it is missing.
func nodeAt(n *yaml.Node, key string) *yaml.Node {
	name, rest, more := strings.Cut(key, ".")
	n = resolve(n)
	if n.Kind != yaml.MappingNode {
		return n
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		switch {
		case n.Content[i].Value != name:
		case more:
			return nodeAt(n.Content[i+1], rest)
		default:
			return n.Content[i+1]
		}
	}
	return n
}
