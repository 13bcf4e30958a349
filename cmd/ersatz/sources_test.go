package main

import (
	"os"
	"regexp"
	"testing"

	"ersatz/internal/stores"
)

// TestDocumentedStores wants each store URL in examples of the documents to be
// one.
func TestDocumentedStores(t *testing.T) {
	url := regexp.MustCompile(`--(?:from|to|serve)[ =]'?((?:[a-z+]+):[^'\x60 \n),.;]*(?:\.[^'\x60 \n),.;]+)*)'?`)
	found := 0
	for _, name := range []string{"README.md", "docs/stores.md", "docs/node.md", "docs/ipfs.md"} {
		text, err := os.ReadFile("../../" + name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range url.FindAllStringSubmatch(string(text), -1) {
			if _, err := stores.Parse(m[1]); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			found++
		}
	}
	if found < 10 {
		t.Errorf("%d store URLs", found)
	}
}
