package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/spf13/cobra"

	"github.com/postbus/postbus/internal/journal"
)

// natsOptions are the flags of "nats".
type natsOptions struct {
	listen string
	dir    string
	write  string
}

// natsConfigName is the name of the configuration file that "nats --write" makes.
const natsConfigName = "email-nats.yml"

func (a *app) natsCommand() *cobra.Command {
	o := &natsOptions{}
	cmd := &cobra.Command{
		Use:   "nats",
		Short: "Run a NATS server for tests on this machine",
		Long: `Nats runs a NATS server with JetStream until Ctrl-C. It is for development: there is no login, and it listens
on loopback addresses alone. It prints its address, and a configuration file with which all other commands,
and programs on the library, work over it instead of mail.

What its streams keep is in the directory of --dir, and there when the server is started again; without
--dir it is gone when the server ends. One server at a time can have a directory.

With --write the configuration file is written into the directory DIR, as ` + natsConfigName + `. An existing file
of that name is replaced.

` + exitCodes,
		Example: `  postbus nats
  postbus nats --dir ~/nats --write .        # writes ` + natsConfigName + `
  postbus nats --listen 127.0.0.1:0`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runNATS(cmd.Context(), o) },
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&o.listen, "listen", "127.0.0.1:4222", "listen on `ADDRESS`; port 0 picks a free one")
	flags.StringVar(&o.dir, "dir", "", "keep streams in the directory `DIR`")
	flags.StringVar(&o.write, "write", "", "write the configuration file into the directory `DIR`")
	noValueCompletion(cmd, "listen")
	_ = errors.Join(cmd.MarkFlagDirname("dir"), cmd.MarkFlagDirname("write")) // the flags exist
	return cmd
}

func (a *app) runNATS(ctx context.Context, o *natsOptions) (err error) {
	host, port, err := loopback(o.listen)
	if err != nil {
		return err
	}
	s, err := a.startNATS(ctx, host, port, o.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	if err := a.announceNATS(s, o.write); err != nil {
		return err
	}
	<-ctx.Done()
	_, err = fmt.Fprint(a.stdout, "\nStopped.\n")
	return err
}

// loopback splits an address of --listen.
func loopback(address string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, usageErrorf("--listen: %q does not have the form HOST:PORT", address)
	}
	port, err = strconv.Atoi(text)
	if err != nil || port < 0 || port > 65535 {
		return "", 0, usageErrorf("--listen: %q is no port", text)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return "", 0, usageErrorf("--listen: %q is not a loopback address; this server has no login, take nats-server for others", host)
	}
	return host, port, nil
}

// natsServer is a NATS server in this process.
type natsServer struct {
	*server.Server
	dir       string           // where the streams are
	temporary bool             // until the server is stopped
	claim     *journal.Journal // a file in dir that one process at a time can have; nil if dir is temporary
}

// natsPatience is how long a server may take to be ready: it reads what is in its directory.
const natsPatience = time.Minute

// startNATS starts a server that keeps its streams in dir, or if it is empty in a directory of its own. Port 0 is a
// free one.
func (a *app) startNATS(ctx context.Context, host string, port int, dir string) (*natsServer, error) {
	s := &natsServer{dir: dir, temporary: dir == ""}
	err := s.openDir()
	if err != nil {
		return nil, err
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	s.Server, err = server.NewServer(&server.Options{
		ServerName: "postbus", Host: host, Port: port, JetStream: true, StoreDir: s.dir, NoSigs: true,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("NATS server: %w", err), s.cleanUp())
	}
	log := &natsLog{logger: a.logger, fatal: make(chan string, 1)}
	s.SetLoggerV2(log, false, false, false)
	s.Start()
	if err := log.await(ctx, s.Server); err != nil {
		return nil, errors.Join(fmt.Errorf("NATS server: %w", err), s.stop())
	}
	return s, nil
}

// openDir makes the directory, and sees to it that no other server has it: two would destroy each other's streams.
func (s *natsServer) openDir() (err error) {
	if s.temporary {
		s.dir, err = os.MkdirTemp("", "postbus-nats-")
		return err
	}
	if err = os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	s.claim, err = journal.Open(filepath.Join(s.dir, "postbus.lock"))
	return err
}

// stop stops the server when it has written what it keeps.
func (s *natsServer) stop() error {
	s.Shutdown()
	s.WaitForShutdown()
	return s.cleanUp()
}

func (s *natsServer) cleanUp() error {
	if s.temporary {
		return os.RemoveAll(s.dir)
	}
	return s.claim.Close()
}

// natsLog passes the server's log on. It implements server.Logger.
type natsLog struct {
	logger *slog.Logger
	fatal  chan string // gets why the server does not start
}

var _ server.Logger = (*natsLog)(nil)

// await waits until the server is ready.
func (l *natsLog) await(ctx context.Context, s *server.Server) error {
	deadline := time.Now().Add(natsPatience)
	for !s.ReadyForConnections(100 * time.Millisecond) { // which looks again and again
		select {
		case text := <-l.fatal:
			return errors.New(text)
		case <-ctx.Done():
			return ctx.Err()
		default:
			if time.Now().After(deadline) {
				return fmt.Errorf("it is not ready after %v", natsPatience)
			}
		}
	}
	return nil
}

// Noticef implements server.Logger.
func (l *natsLog) Noticef(format string, v ...any) {
	l.logger.Info("nats: " + fmt.Sprintf(format, v...))
}

// Warnf implements server.Logger.
func (l *natsLog) Warnf(format string, v ...any) { l.logger.Warn("nats: " + fmt.Sprintf(format, v...)) }

// Errorf implements server.Logger.
func (l *natsLog) Errorf(format string, v ...any) {
	l.logger.Error("nats: " + fmt.Sprintf(format, v...))
}

// Fatalf implements server.Logger. The server goes on, and never becomes ready.
func (l *natsLog) Fatalf(format string, v ...any) {
	select {
	case l.fatal <- fmt.Sprintf(format, v...):
	default:
	}
}

// Debugf implements server.Logger.
func (l *natsLog) Debugf(format string, v ...any) {
	l.logger.Debug("nats: " + fmt.Sprintf(format, v...))
}

// Tracef implements server.Logger. Traces are off.
func (l *natsLog) Tracef(string, ...any) {}

// announceNATS tells the user what there is and how to use it.
func (a *app) announceNATS(s *natsServer, folder string) error {
	var b bytes.Buffer
	kept := s.dir
	if s.temporary {
		kept += ", which is gone when the server ends"
	}
	config := natsConfigFile(s.ClientURL())
	fmt.Fprintf(&b, "The NATS server is running; Ctrl-C ends it.\n\n  URL      %s\n  Streams  %s\n\n", s.ClientURL(), kept)
	flag := ""
	if folder == "" {
		fmt.Fprintf(&b, "A configuration; save it as email.yml:\n\n%s\nThen, in that directory, in two more terminals:\n\n", config)
	} else {
		if err := os.MkdirAll(folder, 0o777); err != nil {
			return err
		}
		path := filepath.Join(folder, natsConfigName)
		if err := replaceFile(path, []byte(config)); err != nil {
			return err
		}
		fmt.Fprintf(&b, "Wrote %s\n\nIn two more terminals:\n\n", path)
		flag = " --config " + path
	}
	fmt.Fprintf(&b, "  postbus topic echo /chatter%[1]s\n  postbus topic pub /chatter hello%[1]s\n", flag)
	_, err := a.stdout.Write(b.Bytes())
	return err
}

// natsConfigFile returns a configuration for the server, with one of each thing that can be in it.
func natsConfigFile(url string) string {
	return strings.ReplaceAll(`nats:
  servers: URL
  streams:                      # what durable names, groups and --last need
    - name: KEPT
      names: [/kept/>, kept.>]  # of topics and services
  objects: {bucket: bodies}     # for bodies above 1 MiB
  cache: {bucket: results}      # for results that servers of a service share
`, "URL", url)
}
