package transport

import "fmt"

// Route gives the messages of some names their recipients.
type Route struct {
	// Pattern selects topics and services (see ValidatePattern).
	Pattern string
	// To lists the recipients in the carrier's terms: for mail, addresses.
	To []string
}

// Routes is a list of routes of which the first that matches counts.
type Routes []Route

// Validate checks the patterns, and that each route has recipients.
func (r Routes) Validate() error {
	for _, route := range r {
		if err := ValidatePattern(route.Pattern); err != nil {
			return fmt.Errorf("route: %w", err)
		}
		if len(route.To) == 0 {
			return fmt.Errorf("route %s has no recipients", route.Pattern)
		}
	}
	return nil
}

// Recipients returns the recipients for a name, or nil if no route matches.
func (r Routes) Recipients(name string) []string {
	for _, route := range r {
		if MatchName(route.Pattern, name) {
			return route.To
		}
	}
	return nil
}
