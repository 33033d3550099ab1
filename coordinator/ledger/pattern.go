package ledger

import (
	"errors"
	"fmt"
	"strings"
)

// MaxTypeLength is how long an event type or a pattern may be, in bytes.
const MaxTypeLength = 256

// CheckType says what is wrong with an event type, or nil: segments of
// letters, digits, `_` and `-`, separated by single dots.
func CheckType(eventType string) error {
	if eventType == "" {
		return errors.New("is empty")
	}
	if len(eventType) > MaxTypeLength {
		return fmt.Errorf("is longer than %d bytes", MaxTypeLength)
	}
	for segment := range strings.SplitSeq(eventType, ".") {
		if err := checkSegment(segment); err != nil {
			return err
		}
	}
	return nil
}

// CheckPattern says what is wrong with a pattern of event types, or nil. A
// pattern is a type in which any segment may be `*`, for one segment, and the
// last may be `**`, for one or more. `*` alone stands for every type.
func CheckPattern(pattern string) error {
	if pattern == "" {
		return errors.New("is empty")
	}
	if len(pattern) > MaxTypeLength {
		return fmt.Errorf("is longer than %d bytes", MaxTypeLength)
	}
	segments := strings.Split(pattern, ".")
	for i, segment := range segments {
		switch {
		case segment == "*":
		case segment == "**" && i == len(segments)-1:
		case segment == "**":
			return errors.New("has ** before its last segment")
		default:
			if err := checkSegment(segment); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkSegment(segment string) error {
	if segment == "" {
		return errors.New("has an empty segment")
	}
	for _, c := range []byte(segment) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '-':
		case c == '*':
			return errors.New("has a * that is not a whole segment")
		default:
			return fmt.Errorf("has the character %q; letters, digits, '_', '-' and '.' are allowed", c)
		}
	}
	return nil
}

// everything reports whether a list of patterns stands for all types.
func everything(patterns []string) bool {
	for _, p := range patterns {
		if p == "*" || p == "**" {
			return true
		}
	}
	return len(patterns) == 0
}

// Matches reports whether a list of patterns, as a subscription has it, wants
// an event type.
func Matches(patterns []string, eventType string) bool {
	if everything(patterns) {
		return true
	}
	for _, p := range patterns {
		if matchOne(p, eventType) {
			return true
		}
	}
	return false
}

func matchOne(pattern, eventType string) bool {
	for {
		want, patternRest, patternMore := strings.Cut(pattern, ".")
		if want == "**" {
			return true
		}
		have, typeRest, typeMore := strings.Cut(eventType, ".")
		if want != "*" && want != have || patternMore != typeMore {
			return false
		}
		if !patternMore {
			return true
		}
		pattern, eventType = patternRest, typeRest
	}
}
