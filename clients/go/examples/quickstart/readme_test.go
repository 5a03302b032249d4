// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strings"
	"testing"
)

// The quick start in the README is a program that compiles, and no longer than 30 lines.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(readme), "```go\n")
	shown, _, _ := strings.Cut(rest, "```")
	at := strings.Index(string(program), "func transcribe(")
	if expected := string(program[at:]); shown != expected {
		t.Fatalf("the README shows\n%s\nexpected\n%s", shown, expected)
	}
	if lines := strings.Count(shown, "\n"); lines > 30 {
		t.Fatalf("%d lines", lines)
	}
}
