package node

import (
	"context"
	"errors"
	"io"

	"ersatz/internal/upstream"
	"ersatz/storepath"
)

// ErrNone means that nobody has an item.
var ErrNone = errors.New("nobody has it")

// Want is an item that is asked for.
type Want struct {
	Path   storepath.Path
	Choice upstream.Choice // one build at least
	Kind   Kind
	// Kept says that nobody is asked: it is for another machine.
	Kept bool
}

// Nar is the nar of an item as it is, NarSize bytes. Its last bytes come only
// after NarHash was right.
type Nar interface {
	io.ReadCloser
	Source() string // for people
}

// Transfers fetches items, each once however many ask. It is safe for
// concurrent use.
type Transfers interface {
	// Get returns when the first bytes of the nar are there. The error matches
	// ErrNone if nobody who may be asked has the item.
	Get(ctx context.Context, w Want) (Nar, error)

	// Ahead says what may be asked for soon. It does not wait.
	Ahead(wants []Want)
}
