package torture

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/email/wire"
	"github.com/postbus/postbus/internal/torture/history"
	"github.com/postbus/postbus/internal/torture/worker"
	"github.com/postbus/postbus/transport"
)

// expunge removes the newest mails from the inbox of those who receive, as another mail client of
// the account may at any time. Messages of this run that were among them are put into the history before they
// go: they may be missing from then on.
func (r *run) expunge() error {
	_, account, err := r.Server.Accounts()
	if err != nil {
		return err
	}
	client, err := login(account.Mail)
	if err != nil {
		return err
	}
	defer client.Close()
	inbox, err := client.Select("INBOX", nil).Wait()
	if err != nil || inbox.NumMessages == 0 {
		return err
	}
	newest := imap.SeqSetNum(inbox.NumMessages)
	if most := uint32(r.random.intN(3)); inbox.NumMessages > most {
		newest.AddRange(inbox.NumMessages-most, inbox.NumMessages)
	}
	section := &imap.FetchItemBodySection{Peek: true}
	mails, err := client.Fetch(newest, &imap.FetchOptions{UID: true, BodySection: []*imap.FetchItemBodySection{section}}).Collect()
	if err != nil {
		return err
	}
	var doomed imap.UIDSet
	for _, mail := range mails {
		events, ok := r.published(mail.FindBodySection(section))
		if !ok {
			continue // requests and answers are owed to somebody who has no other
		}
		for _, event := range events {
			if err := r.log.Add(event); err != nil {
				return err
			}
		}
		doomed.AddNum(mail.UID)
	}
	if len(doomed) == 0 {
		return nil
	}
	flags := &imap.StoreFlags{Op: imap.StoreFlagsAdd, Silent: true, Flags: []imap.Flag{imap.FlagDeleted}}
	if err := client.Store(doomed, flags, nil).Close(); err != nil {
		return err
	}
	return client.UIDExpunge(doomed).Close()
}

// published returns what is to be put into the history when a mail goes. It returns false if
// there is anything but topic messages of this run in it.
func (r *run) published(mail []byte) (events []history.Event, ok bool) {
	m, err := wire.Decode(mail)
	messages := func(yield func(*transport.Message, error) bool) { yield(m, err) }
	if err == wire.ErrBatch {
		if messages, err = wire.DecodeBatch(mail); err != nil {
			return nil, false
		}
	}
	for m, err := range messages {
		if err != nil || m.Kind != transport.TopicMessage || m.Name != r.topic {
			return nil, false
		}
		gid, n, ok := worker.Parse(m.Body)
		if !ok {
			return nil, false
		}
		events = append(events, history.Event{Kind: history.Expunged, Publisher: gid, Number: n})
	}
	return events, true
}

// login opens an IMAP connection.
func login(account email.Config) (*imapclient.Client, error) {
	u, err := url.Parse(account.IMAP)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(account.CA)
	options := &imapclient.Options{TLSConfig: &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}}
	if len(account.CA) > 0 {
		options.TLSConfig.RootCAs = pool
	}
	var client *imapclient.Client
	switch u.Scheme {
	case "imaps":
		client, err = imapclient.DialTLS(u.Host, options)
	case "imap+starttls":
		client, err = imapclient.DialStartTLS(u.Host, options)
	case "imap+insecure":
		client, err = imapclient.DialInsecure(u.Host, options)
	default:
		return nil, fmt.Errorf("torture: %s is no URL of IMAP", account.IMAP)
	}
	if err != nil {
		return nil, err
	}
	if err := client.Login(account.Username, account.Password).Wait(); err != nil {
		_ = client.Close() // the login has failed, and that matters
		return nil, err
	}
	return client, nil
}
