package email

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestNoForNothing: a server that says NO when there is nothing to fetch is not asked without end.
func TestNoForNothing(t *testing.T) {
	withScript(t, func(s *script, _ *receiver) {
		s.before = func(c *scriptConn, command string, args []string) bool {
			if command != "UID FETCH" || len(s.inbox()) > 0 {
				return false
			}
			if s.count(command) > 1000 {
				c.Close() // and the test comes to an end
			} else if _, partial := c.parseSet(args); partial == 0 {
				return false
			}
			c.send("%s NO nothing there", c.tag)
			return true
		}
	}, func(t *scriptTest) {
		synctest.Wait()
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := t.script.count("UID FETCH"); n > 500 {
			t.Errorf("%d FETCHes in a minute in which nothing came", n)
		}
		t.script.addMessages(1, 1)
		t.want(1, 1)
	})
}
