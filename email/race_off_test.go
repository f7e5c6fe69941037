//go:build !race

package email_test

// raced says that the race detector watches, which makes work on many bytes ten times slower.
const raced = false
