// Package tap prints the Test Anything Protocol.
//
// The validation programs import a package of this name that the distribution doesn't have. This
// one has what they call, and nothing else.
package tap

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// T counts what was printed.
type T struct {
	count int
	todo  bool
}

// New starts with no test printed.
func New() *T {
	return &T{}
}

// Header names the version, and how many tests will come where that is known.
func (t *T) Header(tests int) {
	fmt.Println("TAP version 13")
	if tests > 0 {
		fmt.Printf("1..%d\n", tests)
	}
}

// AutoPlan says at the end how many tests there were.
func (t *T) AutoPlan() {
	fmt.Printf("1..%d\n", t.count)
}

// Ok is a test with its result.
func (t *T) Ok(passed bool, description string) {
	word := "not ok"
	if passed {
		word = "ok"
	}
	mark := ""
	if t.todo {
		mark = " # TODO"
	}
	t.count++
	line := strings.ReplaceAll(description, "\n", " ")
	fmt.Printf("%s %d%s - %s\n", word, t.count, mark, line)
}

// Pass is a test that passed.
func (t *T) Pass(description string) {
	t.Ok(true, description)
}

// Fail is a test that failed.
func (t *T) Fail(description string) {
	t.Ok(false, description)
}

// Todo marks what its result prints as expected to fail. It counts with its parent.
func (t *T) Todo() *Todo {
	return &Todo{parent: t}
}

// Todo prints tests whose failure is expected.
type Todo struct {
	parent *T
}

// Fail is a test that failed, as expected.
func (t *Todo) Fail(description string) {
	t.parent.todo = true
	t.parent.Fail(description)
	t.parent.todo = false
}

// Skip counts tests as passed without having run them.
func (t *T) Skip(count int, description string) {
	for i := 0; i < count; i++ {
		t.count++
		fmt.Printf("ok %d # SKIP %s\n", t.count, strings.ReplaceAll(description, "\n", " "))
	}
}

// Diagnostic is a comment.
func (t *T) Diagnostic(message string) {
	for _, line := range strings.Split(message, "\n") {
		fmt.Printf("# %s\n", line)
	}
}

// Diagnosticf is a comment.
func (t *T) Diagnosticf(format string, a ...interface{}) {
	t.Diagnostic(fmt.Sprintf(format, a...))
}

// YAML is what belongs to the test before it. JSON is YAML too.
func (t *T) YAML(message interface{}) error {
	text, err := json.MarshalIndent(message, "  ", "  ")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return err
	}
	fmt.Printf("  ---\n  %s\n  ...\n", text)
	return nil
}
