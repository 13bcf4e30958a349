//go:build noipfs

package stores

import "context"

func openIPFS(context.Context, *Set, URL, use) error {
	return invalid("this program was built without it, by the tag noipfs; ipfs+http: asks a daemon")
}
