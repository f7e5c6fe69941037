// Package natsserver is a NATS server with JetStream as a program of its own, which the torture harness can
// kill as the server of an installation can be, and start again with what it has on disk.
package natsserver

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Config is all that a server is told.
type Config struct {
	// Dir gets the streams, and the log.
	Dir string
	// Port is the one on loopback to listen on; zero chooses one.
	Port int
	// MaxPending is how many bytes may wait for a client that does not read them, before it counts as a slow consumer and
	// its connection is closed; zero means what the server takes by itself.
	MaxPending int64
}

// LogFile is the name of the log in Config.Dir.
const LogFile = "nats.log"

// starting bounds the start: JetStream may have much to read.
const starting = 30 * time.Second

// Main is a server as a program: it reads its configuration, a line of JSON, from stdin, writes its URL to stdout in a line when it
// is ready, and ends in order when stdin does. It returns the exit code. Ctrl-C is for whoever has started it.
func Main(stdin io.Reader, stdout, stderr io.Writer) int {
	signal.Ignore(os.Interrupt)
	if err := run(bufio.NewReader(stdin), stdout); err != nil {
		fmt.Fprintf(stderr, "nats server: %v\n", err)
		return 1
	}
	return 0
}

func run(stdin *bufio.Reader, stdout io.Writer) error {
	line, err := stdin.ReadBytes('\n')
	if err != nil {
		return err
	}
	var c Config
	if err := json.Unmarshal(line, &c); err != nil {
		return err
	}
	if c.Port == 0 {
		c.Port = server.RANDOM_PORT
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return err
	}
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: c.Port, NoSigs: true, MaxPending: c.MaxPending,
		JetStream: true, StoreDir: c.Dir, LogFile: filepath.Join(c.Dir, LogFile),
	})
	if err != nil {
		return err
	}
	s.ConfigureLogger()
	s.Start()
	defer s.WaitForShutdown()
	defer s.Shutdown()
	if !s.ReadyForConnections(starting) {
		return errors.New("it does not start; see its log")
	}
	if _, err := fmt.Fprintln(stdout, s.ClientURL()); err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, stdin) // whatever ends it ends the server
	return nil
}
