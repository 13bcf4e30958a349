package main

import (
	"errors"
	"fmt"

	"ersatz/internal/stores"
	"ersatz/internal/transfer"
)

// plan reads the stores that items are got from, and those that they are served at.
// --ipfs is short for --from with the URL of a daemon.
func (f nodeFlags) plan() (p stores.Plan, err error) {
	var errs []error
	if f.ipfs != "" {
		u, err := stores.Parse("ipfs+" + f.ipfs)
		if err != nil {
			errs = append(errs, fmt.Errorf("--ipfs: %w", err))
		}
		p.From = append(p.From, u)
	}
	from, err := storeURLs("from", f.from)
	p.From = append(p.From, from...)
	errs = append(errs, err)
	p.Serve, err = storeURLs("serve", f.serve)
	return p, errors.Join(append(errs, err)...)
}

// storeContradictions returns what the flags of stores say against others.
func (f nodeFlags) storeContradictions(policy transfer.Policy) (errs []error) {
	if len(f.serve) > 0 && len(f.shareLists) == 0 {
		errs = append(errs, errors.New("--serve needs a --share-list, which says what is served: there is no default one"))
	}
	if policy == transfer.HTTPOnly && f.ipfs != "" {
		errs = append(errs, errors.New("--ipfs contradicts --policy=http-only"))
	}
	if policy == transfer.HTTPOnly && len(f.from) > 0 {
		errs = append(errs, errors.New("--from contradicts --policy=http-only"))
	}
	return errs
}
