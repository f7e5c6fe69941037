//go:build integration

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"go.yaml.in/yaml/v3"
)

// TestDemoOnRealServers runs the demo on an account of Postfix and Dovecot (see
// CONTRIBUTING.md).
func TestDemoOnRealServers(t *testing.T) {
	variable := func(name string) string {
		value := os.Getenv(name)
		if value == "" {
			t.Fatalf("%s is not set; see CONTRIBUTING.md", name)
		}
		return value
	}
	var c configFile
	c.Email.User.SMTP = variable("POSTBUS_TEST_SMTP")
	c.Email.User.IMAP = variable("POSTBUS_TEST_IMAP")
	c.Email.User.Username = variable("POSTBUS_TEST_USER")
	c.Email.User.Password = variable("POSTBUS_TEST_PASSWORD")
	c.Email.TLS.CAFile = variable("POSTBUS_TEST_CA")
	// The demo writes to the account itself, whatever the file says.
	c.Email.Recipients.To = variable("POSTBUS_TEST_BOUNCE")
	config, err := yaml.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "email.yml")
	if err := os.WriteFile(path, config, 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"demo", "--config", path}, nil, &stdout, &stderr); code != exitDone || stderr.Len() > 0 {
		t.Errorf("exit code %d, stderr:\n%s", code, stderr.String())
	}
	checkDemo(t, stdout.String())
	t.Log(stdout.String())
}
