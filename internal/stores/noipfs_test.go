//go:build noipfs

package stores

import (
	"errors"
	"testing"
)

// TestWithoutIPFS wants a URL of what was left out to be known as such.
func TestWithoutIPFS(t *testing.T) {
	if _, err := Open(t.Context(), Plan{From: mustParse(t, "ipfs:")}, Options{}); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
}
