package email

import (
	"testing"

	"github.com/postbus/postbus/transport"
)

// A group whose log has not been read yet, or that has been left, can't say what it needs: until it can,
// retention leaves everything alone.
func TestGroupsNeedEverythingWhileTheyAreNotFed(t *testing.T) {
	s := &groups{receiver: new(receiver), logger: quietLog}
	if s.unfed() {
		t.Error("without a group")
	}
	g := newGroup(s, transport.Interest{Kind: transport.TopicMessage, Name: "/t", Group: "g"}, "folder")
	s.open = map[string]*group{"folder": g}
	if !s.unfed() {
		t.Error("a group that waits for its log can say what it needs")
	}
	g.inbox.feed = new(feed)
	if s.unfed() {
		t.Error("a group that is fed can't")
	}
}
