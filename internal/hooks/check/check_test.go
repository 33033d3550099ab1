package check_test

import (
	"testing"

	"github.com/fanfare-dev/fanfare/internal/hooks/check"
	"github.com/fanfare-dev/fanfare/internal/hooks/spec"
)

// Whatever a file has in it, it can be checked, and what can be loaded has
// nothing in it that makes it unreadable.
func FuzzFile(f *testing.F) {
	f.Add("- id: x\n  execute-command: /bin/true\n  trigger-rule: {and: [{match: {type: value}}]}\n")
	f.Add(`[{"id": "x", "and": [ "or": [1] ], "http-methods": "x"}]`)
	f.Add("- &a {id: x, <<: *a}\n")
	f.Add("- {id: x, deduplicate-by: ~, max-queue: 1, trigger-rule: {not: {}}}")
	f.Fuzz(func(t *testing.T, text string) {
		found := check.Text([]byte(text))
		loaded, err := spec.Parse([]byte(text))
		if err == nil && len(loaded.Hooks) != found.Hooks {
			t.Fatalf("%d hooks are checked, %d loaded", found.Hooks, len(loaded.Hooks))
		}
		fatal := false
		for _, problem := range found.Problems {
			fatal = fatal || problem.Fatal
			if problem.Line < 0 {
				t.Fatalf("line %d: %v", problem.Line, problem)
			}
		}
		if err != nil && !fatal {
			t.Fatalf("it cannot be loaded (%v), and nothing is wrong: %v", err, found.Problems)
		}
	})
}
