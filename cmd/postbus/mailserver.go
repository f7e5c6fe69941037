package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/mail"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/postbus/postbus/email/mailserver"
)

// mailserverOptions are the flags of "mailserver".
type mailserverOptions struct {
	smtp, imap string
	lmtp       string
	users      []string
	tls        bool
	write      string
}

func (a *app) mailserverCommand() *cobra.Command {
	o := &mailserverOptions{}
	cmd := &cobra.Command{
		Use:   "mailserver",
		Short: "Run a mail server for tests on this machine",
		Long: `Mailserver runs a mail server with SMTP, IMAP and a few accounts until Ctrl-C. It keeps everything in
memory and relays nothing, so that no mail ever leaves the machine; without --tls it only listens on
loopback addresses. It prints its addresses and accounts, and a configuration file that works with
them, in which the account writes to itself: programs that share it hear each other.

With --write the configuration files are written to DIR instead, one for each account: email-robot.yml
for robot@localhost.test. With --tls there also is ca.pem, the authority of the server's certificate,
which the configuration files refer to. Existing files of these names are replaced.

` + exitCodes,
		Example: `  postbus mailserver
  postbus mailserver --write .               # writes email-robot.yml and email-peer.yml
  postbus mailserver --smtp 127.0.0.1:0 --imap 127.0.0.1:0 --tls --write /tmp/mail
  postbus mailserver --user arm@factory.test:secret --user base@factory.test:secret`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runMailserver(cmd.Context(), o) },
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&o.smtp, "smtp", "127.0.0.1:1025", "listen on `ADDRESS` for SMTP; port 0 picks a free one")
	flags.StringVar(&o.imap, "imap", "127.0.0.1:1143", "listen on `ADDRESS` for IMAP; port 0 picks a free one")
	flags.StringVar(&o.lmtp, "lmtp", "", "also listen on `ADDRESS` for LMTP, without login: on loopback, or the path of a socket")
	flags.StringArrayVar(&o.users, "user", nil, "have the account `ADDRESS:PASSWORD` instead of robot@localhost.test:robot\nand peer@localhost.test:peer (repeatable)")
	flags.BoolVar(&o.tls, "tls", false, "speak TLS, with a certificate made for this run, and offer STARTTLS besides")
	flags.StringVar(&o.write, "write", "", "write the configuration files into the directory `DIR`")
	noValueCompletion(cmd, "smtp", "imap", "lmtp", "user")
	_ = cmd.MarkFlagDirname("write") // the flag exists
	return cmd
}

func (a *app) runMailserver(ctx context.Context, o *mailserverOptions) error {
	accounts, err := parseAccounts(o.users)
	if err != nil {
		return err
	}
	server, err := mailserver.Start(mailserver.Config{
		SMTPAddr: o.smtp,
		IMAPAddr: o.imap,
		LMTPAddr: o.lmtp,
		Accounts: accounts,
		TLS:      o.tls,
		Logger:   a.logger,
	})
	if err != nil {
		return err
	}
	defer server.Close()
	if err := a.announce(server, o.write); err != nil {
		return err
	}
	<-ctx.Done()
	stats := server.Stats()
	_, err = fmt.Fprintf(a.stdout, "\nStopped after %d mails.\n", stats.Accepted)
	return err
}

func parseAccounts(users []string) ([]mailserver.Account, error) {
	var accounts []mailserver.Account
	for _, user := range users {
		address, password, ok := strings.Cut(user, ":")
		if parsed, err := mail.ParseAddress(address); !ok || password == "" || err != nil || parsed.Address != address {
			return nil, usageErrorf("--user: %q does not have the form ADDRESS:PASSWORD", user)
		}
		if slices.ContainsFunc(accounts, func(a mailserver.Account) bool { return strings.EqualFold(a.Address, address) }) {
			return nil, usageErrorf("--user: the account %s is there twice", address)
		}
		accounts = append(accounts, mailserver.Account{Address: address, Password: password})
	}
	return accounts, nil
}

// announce tells the user what there is and how to use it.
func (a *app) announce(server *mailserver.Server, folder string) error {
	var b bytes.Buffer
	fmt.Fprint(&b, "The mail server is running; Ctrl-C ends it, and its mail is gone then.\n\n")
	fmt.Fprintf(&b, "  SMTP  %s\n  IMAP  %s\n", server.SMTPURL(), server.IMAPURL())
	if server.SMTPStartTLSURL() != "" {
		fmt.Fprintf(&b, "        %s\n        %s\n", server.SMTPStartTLSURL(), server.IMAPStartTLSURL())
	}
	if server.LMTPURL() != "" {
		fmt.Fprintf(&b, "  LMTP  %s\n", server.LMTPURL())
	}
	fmt.Fprint(&b, "\n  Account                         Password\n")
	for _, account := range server.Accounts() {
		fmt.Fprintf(&b, "  %-30s  %s\n", account.Address, account.Password)
	}
	b.WriteByte('\n')
	var err error
	if folder == "" {
		err = showConfig(&b, server)
	} else {
		err = writeConfigs(&b, server, folder)
	}
	if err != nil {
		return err
	}
	_, err = a.stdout.Write(b.Bytes())
	return err
}

// showConfig prints the configuration of the first account.
func showConfig(b *bytes.Buffer, server *mailserver.Server) error {
	caFile := ""
	if server.CACertPEM() != nil {
		caFile = caName
	}
	account := server.Accounts()[0]
	config, err := accountConfig(server, account, caFile)
	if err != nil {
		return err
	}
	fmt.Fprintf(b, "A configuration for %s; save it as email.yml:\n\n%s\n", account.Address, config)
	if caFile != "" {
		fmt.Fprintf(b, "and this, the authority of the server's certificate, as %s beside it:\n\n%s\n", caFile, server.CACertPEM())
	}
	fmt.Fprint(b, "Then, in that directory, in two more terminals:\n\n  postbus topic echo /chatter\n  postbus topic pub /chatter hello\n")
	return nil
}

// caName is the name of the file with the authority's certificate.
const caName = "ca.pem"

// writeConfigs writes a configuration for each account.
func writeConfigs(b *bytes.Buffer, server *mailserver.Server, folder string) error {
	if err := os.MkdirAll(folder, 0o777); err != nil {
		return err
	}
	caFile := ""
	if ca := server.CACertPEM(); ca != nil {
		caFile = caName
		if err := replaceFile(filepath.Join(folder, caName), ca); err != nil {
			return err
		}
	}
	first := ""
	for _, account := range server.Accounts() {
		config, err := accountConfig(server, account, caFile)
		if err != nil {
			return err
		}
		path := filepath.Join(folder, configName(server, account))
		if err := replaceFile(path, config); err != nil {
			return err
		}
		fmt.Fprintf(b, "Wrote %s\n", path)
		if first == "" {
			first = path
		}
	}
	fmt.Fprintf(b, "\nIn two more terminals:\n\n  postbus topic echo /chatter --config %[1]s\n  postbus topic pub /chatter hello --config %[1]s\n", first)
	return nil
}

// configName returns the name of the file for an account: that of its user, or the
// whole address where several accounts have users of that name.
func configName(server *mailserver.Server, account mailserver.Account) string {
	user, _, _ := strings.Cut(account.Address, "@")
	for _, other := range server.Accounts() {
		if other != account && strings.EqualFold(user+"@", other.Address[:min(len(user)+1, len(other.Address))]) {
			user = account.Address
			break
		}
	}
	// An address may hold characters that mean something else in a path.
	return "email-" + strings.Map(func(r rune) rune {
		if strings.ContainsRune(`/\:`, r) {
			return '_'
		}
		return r
	}, user) + ".yml"
}

// replaceFile puts a file in its place as a whole, readable for its owner alone: who
// sees it sees all of it, and it may hold a password.
func replaceFile(path string, content []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return nil
}

// configFile is a configuration file as package email reads it.
type configFile struct {
	Email struct {
		User struct {
			SMTP     string `yaml:"url-smtp"`
			IMAP     string `yaml:"url-imap"`
			Username string `yaml:"username"`
			Password string `yaml:"password"`
		} `yaml:"user"`
		Recipients struct {
			To string `yaml:"to"`
		} `yaml:"recipients"`
		TLS struct {
			CAFile string `yaml:"ca-file,omitempty"`
		} `yaml:"tls,omitempty"`
	} `yaml:"email"`
}

// accountConfig returns the configuration file of an account that writes to itself.
func accountConfig(server *mailserver.Server, account mailserver.Account, caFile string) ([]byte, error) {
	var c configFile
	c.Email.User.SMTP = reachable(server.SMTPURL())
	c.Email.User.IMAP = reachable(server.IMAPURL())
	c.Email.User.Username = account.Address
	c.Email.User.Password = account.Password
	c.Email.Recipients.To = account.Address
	c.Email.TLS.CAFile = caFile
	var b bytes.Buffer
	encoder := yaml.NewEncoder(&b)
	encoder.SetIndent(2)
	err := errors.Join(encoder.Encode(c), encoder.Close())
	return b.Bytes(), err
}

// reachable returns the URL under which this machine reaches a server that may listen on
// all addresses.
func reachable(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return address
	}
	if ip := net.ParseIP(u.Hostname()); ip != nil && ip.IsUnspecified() {
		u.Host = net.JoinHostPort("localhost", u.Port())
	}
	return u.String()
}
