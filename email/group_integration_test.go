//go:build integration

package email_test

import (
	"fmt"
	"strings"
	"testing"
)

func realTeam(t testing.TB) *team {
	t.Helper()
	config, _ := real(t)
	return newTeam(t, realMailbox(t), config)
}

// realIMAP returns the address of the server, and the URL of one at another address.
func realIMAP(x *team) (addr string, url func(string) string) {
	return strings.TrimPrefix(x.config.IMAP, "imaps://"), func(addr string) string { return "imaps://" + strings.Replace(addr, "127.0.0.1", "localhost", 1) }
}

func TestRealGroupShares(t *testing.T) { testGroupShares(realTeam(t), 300) }

func TestRealGroupProcesses(t *testing.T) { testGroupProcesses(realTeam(t), 500) }

func TestRealGroupLogDeleted(t *testing.T) { testGroupLogDeleted(realTeam(t)) }

func TestRealGroupLease(t *testing.T) {
	x := realTeam(t)
	addr, url := realIMAP(x)
	testGroupLease(x, addr, url)
}

func TestRealGroupCut(t *testing.T) {
	x := realTeam(t)
	addr, url := realIMAP(x)
	testGroupCut(x, addr, url, 200)
}

func BenchmarkRealGroup(b *testing.B) {
	for _, members := range []int{1, 3} {
		b.Run(fmt.Sprintf("members=%d", members), func(b *testing.B) { benchmarkGroup(b, realTeam(b), members) })
	}
}

func BenchmarkRealGroupLatency(b *testing.B) { benchmarkGroupLatency(b, realTeam(b)) }
