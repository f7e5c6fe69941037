package transport

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxFilename is the length of the longest name of a file, in bytes, as in most file
// systems.
const MaxFilename = 255

// ValidateFilename checks that name is the name of a file, and of nothing beyond its
// folder: 1 to MaxFilename bytes of valid UTF-8 without control characters and without
// "/" and "\", and neither "." nor "..". A receiver may still want to refuse names that mean
// something to its system, and should never replace a file that is there. Errors wrap
// ErrInvalidFilename.
func ValidateFilename(name string) error {
	if name == "" || len(name) > MaxFilename {
		return fmt.Errorf("%w: it has %d bytes, 1 to %d are allowed", ErrInvalidFilename, len(name), MaxFilename)
	}
	if name == "." || name == ".." {
		return fmt.Errorf("%w %q: it is a folder's", ErrInvalidFilename, name)
	}
	if !utf8.ValidString(name) {
		return fmt.Errorf("%w %q: it is not valid UTF-8", ErrInvalidFilename, name)
	}
	if i := strings.IndexFunc(name, func(r rune) bool { return r == '/' || r == '\\' || unicode.IsControl(r) }); i >= 0 {
		return fmt.Errorf("%w %q: character %q at index %d is not allowed", ErrInvalidFilename, name, name[i:i+1], i)
	}
	return nil
}
