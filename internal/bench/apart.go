package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"sync"

	"github.com/postbus/postbus"
	"github.com/postbus/postbus/email"
	"github.com/postbus/postbus/pubsub"
	"github.com/postbus/postbus/transport"
)

// order is what a publishing process is told first, in a line of JSON. Then come lines with the number
// of the publisher whose turn it is, each of which is answered: with "ok", or with what went wrong.
type order struct {
	Config     email.Config
	Topic      string
	Publishers int
	Payload    int
}

// ServePublisher is the publishing process of a bed whose publishers are apart. It ends with in.
func ServePublisher(ctx context.Context, in io.Reader, out io.Writer) error {
	lines := bufio.NewReader(in)
	line, err := lines.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("publisher: %w", err)
	}
	var o order
	if err := json.Unmarshal(line, &o); err != nil {
		return fmt.Errorf("publisher: %w", err)
	}
	node, err := postbus.OpenConfig(ctx, o.Config, quietly())
	if err != nil {
		return err
	}
	err = o.serve(ctx, node, lines, out)
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	return errors.Join(err, node.Close(closing))
}

func (o order) serve(ctx context.Context, node *transport.Node, lines *bufio.Reader, out io.Writer) error {
	publishers := make([]*pubsub.Publisher, o.Publishers)
	for i := range publishers {
		p, err := pubsub.NewPublisher(node, o.Topic)
		if err != nil {
			return err
		}
		publishers[i] = p
		if _, err := fmt.Fprintln(out, p.GID()); err != nil {
			return err
		}
	}
	body := payload(o.Payload)
	for {
		line, err := lines.ReadString('\n')
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		i, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil || i < 0 || i >= len(publishers) {
			return fmt.Errorf("publisher: there is no publisher %q", line)
		}
		answer := "ok"
		if err := publishers[i].Publish(ctx, body); err != nil {
			answer = strings.ReplaceAll(err.Error(), "\n", " ")
		}
		if _, err := fmt.Fprintln(out, answer); err != nil {
			return err
		}
	}
}

// apart is postbus whose publishers are in a process of their own. They publish one after the other.
type apart struct {
	from, to email.Config
	word     string
	command  func() *exec.Cmd
}

// apartSession is a node that receives, and a process that publishes.
type apartSession struct {
	nodesSession
	process *exec.Cmd
	mu      sync.Mutex
	in      io.WriteCloser
	out     *bufio.Reader
}

// Open implements System.
func (a apart) Open(ctx context.Context, load Load) (Session, error) {
	node, err := postbus.OpenConfig(ctx, a.to, quietly())
	if err != nil {
		return nil, err
	}
	s := &apartSession{nodesSession: nodesSession{nodePair: nodePair{node, node}}, process: a.command()}
	if err := s.start(a, load); err != nil {
		return nil, errors.Join(err, s.Close(ctx))
	}
	return s, nil
}

func (s *apartSession) start(a apart, load Load) (err error) {
	if s.in, err = s.process.StdinPipe(); err != nil {
		return err
	}
	out, err := s.process.StdoutPipe()
	if err != nil {
		return err
	}
	s.out = bufio.NewReader(out)
	if err := s.process.Start(); err != nil {
		s.in.Close()
		s.in = nil
		return err
	}
	topic := (&Nodes{Word: a.word}).name()
	o := order{Config: a.from, Topic: topic, Publishers: load.Publishers, Payload: load.Payload}
	if err := json.NewEncoder(s.in).Encode(o); err != nil {
		return err
	}
	numbers := make(map[transport.GID]int)
	for i := range load.Publishers {
		line, err := s.out.ReadString('\n')
		if err != nil {
			return fmt.Errorf("the publishing process has ended: %w", err)
		}
		gid, err := transport.ParseGID(strings.TrimSpace(line))
		if err != nil {
			return err
		}
		numbers[gid] = i
	}
	return s.subscribe(topic, load.Subscribers, numbers)
}

// Publish implements Session.
func (s *apartSession) Publish(_ context.Context, publisher int, _ uint64, _ []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := fmt.Fprintln(s.in, publisher); err != nil {
		return err
	}
	answer, err := s.out.ReadString('\n')
	if err != nil {
		return fmt.Errorf("the publishing process has ended: %w", err)
	}
	if answer = strings.TrimSpace(answer); answer != "ok" {
		return errors.New(answer)
	}
	return nil
}

// Close implements Session.
func (s *apartSession) Close(ctx context.Context) error {
	err := s.nodesSession.Close(ctx)
	if s.in != nil {
		s.in.Close()
		err = errors.Join(err, s.process.Wait())
	}
	return err
}
