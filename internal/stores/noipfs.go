//go:build noipfs

package stores

import "context"

func openIPFS(context.Context, *Set, URL, use) error {
	return invalid("this ersatz was built without it")
}
