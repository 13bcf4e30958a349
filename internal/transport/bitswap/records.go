package bitswap

import (
	"context"
	"sync"

	"github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
)

const (
	// maxRecords and maxRecord bound what is kept for others in the DHT, and the
	// bytes of each record. Some questions take a look at all of them.
	maxRecords = 16 << 10
	maxRecord  = 10 << 10
)

// records is what the DHT keeps for others, in memory: a datastore that is never
// full. Beyond its bound a record by chance goes for each that comes.
type records struct {
	mu sync.Mutex
	m  map[datastore.Key][]byte
}

var _ datastore.Batching = (*records)(nil)

func newRecords() *records { return &records{m: map[datastore.Key][]byte{}} }

// Put keeps a record, unless it is too long.
func (r *records) Put(_ context.Context, k datastore.Key, v []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(v) > maxRecord {
		return nil
	}
	if _, had := r.m[k]; !had && len(r.m) >= maxRecords {
		for other := range r.m {
			delete(r.m, other)
			break
		}
	}
	r.m[k] = v
	return nil
}

// Get returns a record.
func (r *records) Get(_ context.Context, k datastore.Key) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if v, ok := r.m[k]; ok {
		return v, nil
	}
	return nil, datastore.ErrNotFound
}

// Has reports whether a record is kept.
func (r *records) Has(_ context.Context, k datastore.Key) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.m[k]
	return ok, nil
}

// GetSize returns the length of a record in bytes.
func (r *records) GetSize(ctx context.Context, k datastore.Key) (int, error) {
	v, err := r.Get(ctx, k)
	if err != nil {
		return -1, err
	}
	return len(v), nil
}

// Delete drops a record.
func (r *records) Delete(_ context.Context, k datastore.Key) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.m, k)
	return nil
}

// Query looks through all records.
func (r *records) Query(_ context.Context, q query.Query) (query.Results, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	prefix := datastore.NewKey(q.Prefix)
	var found []query.Entry
	for k, v := range r.m {
		if q.Prefix == "" || prefix.IsAncestorOf(k) {
			found = append(found, query.Entry{Key: k.String(), Value: v, Size: len(v)})
		}
	}
	return query.NaiveQueryApply(q, query.ResultsWithEntries(q, found)), nil
}

// Batch returns writes that are done together.
func (r *records) Batch(context.Context) (datastore.Batch, error) {
	return datastore.NewBasicBatch(r), nil
}

// Sync does nothing: records are in memory alone.
func (r *records) Sync(context.Context, datastore.Key) error { return nil }

// Close does nothing.
func (r *records) Close() error { return nil }
