package torture

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/internal/torture/worker"
)

// Stock is a stock mail server: an account, or two, anywhere. If it was started by
// scripts/mailserver.sh, Script and Dir are that script and its directory, and it can be
// taken away; if Script is empty only connections to it can be broken.
type Stock struct {
	From, To    email.Config
	Script, Dir string
}

var _ Server = Stock{}

// StockFromEnv returns the server that scripts/mailserver.sh env describes.
func StockFromEnv() (Stock, error) {
	var missing []string
	variable := func(name string) string {
		value := os.Getenv("POSTBUS_TEST_" + name)
		if value == "" {
			missing = append(missing, "POSTBUS_TEST_"+name)
		}
		return value
	}
	smtp, imap := variable("SMTP"), variable("IMAP")
	robot, robotPassword := variable("USER"), variable("PASSWORD")
	peer, peerPassword := variable("PEER"), variable("PEER_PASSWORD")
	s := Stock{Script: variable("MAILSERVER"), Dir: variable("MAILSERVER_DIR")}
	authority := variable("CA")
	if len(missing) > 0 {
		return Stock{}, fmt.Errorf("torture: %s not set: start a server with scripts/mailserver.sh", strings.Join(missing, ", "))
	}
	ca, err := os.ReadFile(authority)
	if err != nil {
		return Stock{}, err
	}
	s.From, s.To = accounts(smtp, imap, ca, robot, robotPassword, peer, peerPassword)
	return s, nil
}

// Accounts implements Server.
func (s Stock) Accounts() (from, to worker.Account, err error) {
	return worker.Account{Mail: s.From}, worker.Account{Mail: s.To}, nil
}

// Outages implements Server.
func (s Stock) Outages() []Outage {
	if s.Script == "" {
		return nil
	}
	var all []Outage
	for _, name := range []string{"smtp", "imap"} {
		start := func() error { return s.run("bash", s.Script, "start", name, s.Dir) }
		all = append(all,
			Outage{name + "-stop", func() error { return s.run("bash", s.Script, "stop", name, s.Dir) }, start},
			Outage{name + "-kill", func() error { return s.kill(name) }, start})
		if name == "imap" {
			all = append(all, Outage{"imap-kick", s.kick, nil}, Outage{"renumber", s.renumber, start})
		}
	}
	return all
}

// renumber stops Dovecot, and has it forget the numbers it has given to the mails of those who receive, as
// after the loss of its index.
func (s Stock) renumber() error {
	if err := s.run("bash", s.Script, "stop", "imap", s.Dir); err != nil {
		return err
	}
	user, _, _ := strings.Cut(s.To.Username, "@")
	indexes, err := filepath.Glob(filepath.Join(s.Dir, "mail", user, "Maildir", "dovecot*"))
	for _, file := range indexes {
		if strings.Contains(filepath.Base(file), "uid") || strings.Contains(filepath.Base(file), "index") {
			err = errors.Join(err, os.Remove(file))
		}
	}
	return err
}

func (s Stock) run(command string, args ...string) error {
	out, err := exec.Command(command, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// kick ends the IMAP connections of those who receive, as an administrator does.
func (s Stock) kick() error {
	err := s.run("doveadm", "-c", filepath.Join(s.Dir, "dovecot", "dovecot.conf"), "kick", s.To.Username)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == 68 {
		return nil // nobody was connected (EX_NOHOST)
	}
	return err
}

// kill kills a server's master process and what it has started, with no chance to tidy up.
func (s Stock) kill(name string) error {
	file := filepath.Join(s.Dir, "run", "master.pid")
	if name == "smtp" {
		file = filepath.Join(s.Dir, "queue", "pid", "master.pid")
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return err
	}
	// A pid file proves nothing after a crash: the process must also work for Dir.
	cwd, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if !strings.HasPrefix(cwd, s.Dir) && !bytes.Contains(cmdline, []byte(s.Dir)) {
		return fmt.Errorf("process %d is none of the server's", pid)
	}
	for _, victim := range append([]int{pid}, childrenOf(pid)...) {
		if p, err := os.FindProcess(victim); err == nil {
			_ = p.Kill() // it may have ended with its parent
		}
	}
	return nil
}

// childrenOf returns the processes that a process has started, on Linux.
func childrenOf(pid int) []int {
	var children []int
	files, _ := filepath.Glob("/proc/[0-9]*/status") // the pattern is right
	for _, file := range files {
		status, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(status, fmt.Appendf(nil, "\nPPid:\t%d\n", pid)) {
			continue
		}
		if child, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil {
			children = append(children, child)
		}
	}
	return children
}

// NewStock returns the server of an account that writes to itself. If it is one that
// scripts/mailserver.sh has started, and its variables are set, it can be taken away.
func NewStock(account email.Config) Stock {
	address := account.From
	if address == "" {
		address = account.Username
	}
	account.To, account.Cc, account.Bcc, account.Routes = []string{address}, nil, nil, nil
	s := Stock{From: account, To: account}
	if script := os.Getenv("POSTBUS_TEST_MAILSERVER"); script != "" && account.IMAP == os.Getenv("POSTBUS_TEST_IMAP") {
		s.Script, s.Dir = script, os.Getenv("POSTBUS_TEST_MAILSERVER_DIR")
	}
	return s
}
