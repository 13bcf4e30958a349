package keep

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// ErrForeign means that a folder is somebody else's, whose nars would look like
// what a node of old has left, and be removed.
var ErrForeign = errors.New("this is no state folder of a node, which wants one of its own")

// checkForeign refuses the cache of a publish, a mirror of one, and what "ersatz
// import" and "nix copy" make: all have a file that no node has.
func checkForeign(dir string) error {
	const file = "nix-cache-info"
	switch _, err := os.Lstat(filepath.Join(dir, file)); {
	case err == nil:
		return fmt.Errorf("%s has a %s: %w", dir, file, ErrForeign)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		return err
	}
}
