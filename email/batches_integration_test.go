//go:build integration

package email_test

import "testing"

// TestRealBatches: messages travel together through Postfix, which lets mails overtake each other, and Dovecot.
func TestRealBatches(t *testing.T) {
	config, _ := real(t)
	testCollectMany(t, config, 200, 80)
}
