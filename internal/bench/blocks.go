package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"slices"
	"time"

	"ersatz/eris"
	"ersatz/internal/transport/ipfs"
	"ersatz/internal/transport/ipfs/kubotest"
)

// randomBytes returns n bytes, the same for the same seed.
func randomBytes(n int, seed uint64) []byte {
	b := make([]byte, n)
	var key [32]byte
	key[0] = byte(seed)
	// ChaCha8 never fails.
	_, _ = rand.NewChaCha8(key).Read(b)
	return b
}

// blockMap holds blocks in memory.
type blockMap map[eris.Ref][]byte

func (m blockMap) put(b eris.Block) error {
	m[b.Ref] = bytes.Clone(b.Data)
	return nil
}

// get returns a block, nil if there is none.
func (m blockMap) get(ref eris.Ref) ([]byte, error) { return m[ref], nil }

// Fetch implements eris.Fetcher.
func (m blockMap) Fetch(_ context.Context, _ eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
	for i, ref := range refs {
		b, ok := m[ref]
		if !ok {
			return fmt.Errorf("%s: %w", ref, eris.ErrNotFound)
		}
		if err := got(i, b); err != nil {
			return err
		}
	}
	return nil
}

// FetchMany implements eris.ManyFetcher.
func (m blockMap) FetchMany(_ context.Context, _ eris.BlockSize, refs []eris.Ref, got eris.GotMany) error {
	is, blocks := make([]int, len(refs)), make([][]byte, len(refs))
	for i, ref := range refs {
		b, ok := m[ref]
		if !ok {
			return fmt.Errorf("%s: %w", ref, eris.ErrNotFound)
		}
		is[i], blocks[i] = i, b
	}
	_, err := got(is, blocks)
	return err
}

// The blocks that go through an IPFS daemon: in bulk, and one by one, which is
// too slow for as many.
const (
	kuboBulk   = 3200
	kuboSingle = 300
)

// kuboGroup measures putting blocks into an IPFS daemon and getting them.
func kuboGroup(ctx context.Context, o Options) ([]Table, error) {
	if o.Kubo == "" {
		return nil, nil
	}
	dir, err := os.MkdirTemp("", "ersatz-bench-kubo-")
	if err != nil {
		return nil, err
	}
	remove := func() error { return os.RemoveAll(dir) }
	d, err := kubotest.Launch(ctx, o.Kubo, dir)
	if err != nil {
		return nil, closing(err, remove)
	}
	defer d.Stop()
	c, err := ipfs.New(d.API, nil)
	if err != nil {
		return nil, closing(err, remove)
	}
	t, err := kuboRates(ctx, o, d.API, c)
	return t, closing(err, remove)
}

func kuboRates(ctx context.Context, o Options, api string, c *ipfs.Client) ([]Table, error) {
	// As in the proposal that ERIS blocks travel by IPFS.
	one := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	var put, get [2]series
	for n := range o.Runs {
		bulk, err := encodeRandom(kuboBulk, uint64(2*n))
		if err != nil {
			return nil, err
		}
		rate, err := putBulk(ctx, c, bulk)
		if err != nil {
			return nil, err
		}
		put[0] = append(put[0], rate)
		single, err := encodeRandom(kuboSingle, uint64(2*n+1))
		if err != nil {
			return nil, err
		}
		if rate, err = eachBlock(single, func(_ eris.Ref, b []byte) error { return putOne(ctx, one, api, b) }); err != nil {
			return nil, err
		}
		put[1] = append(put[1], rate)
		if rate, err = getBulk(ctx, c, bulk); err != nil {
			return nil, err
		}
		get[0] = append(get[0], rate)
		if rate, err = eachBlock(single, func(ref eris.Ref, b []byte) error { return getOne(ctx, one, api, ref, b) }); err != nil {
			return nil, err
		}
		get[1] = append(get[1], rate)
	}
	t := Table{
		Title: "Kubo: blocks per second",
		Note:  fmt.Sprintf("Blocks of 32 KiB, a daemon on the same machine: %d in one CAR, got 32 at a time over kept connections; or %d with a new connection for each.", kuboBulk, kuboSingle),
		Head:  []string{"what", "ersatz", "one new connection per block", "ersatz ahead"},
	}
	t.compare("put", perSecond, put[0], put[1])
	t.compare("get", perSecond, get[0], get[1])
	return []Table{t}, nil
}

// encodeRandom returns the blocks of a content of so many leaves.
func encodeRandom(leaves int, seed uint64) (blockMap, error) {
	m := blockMap{}
	content := randomBytes(leaves*int(eris.Size32KiB)-1, seed)
	_, _, err := eris.Encode(bytes.NewReader(content), eris.Size32KiB, eris.Secret{}, m.put)
	return m, err
}

func putBulk(ctx context.Context, c *ipfs.Client, m blockMap) (float64, error) {
	refs := make([]eris.Ref, 0, len(m))
	for ref := range m {
		refs = append(refs, ref)
	}
	begin := time.Now()
	_, err := c.Put(ctx, refs[0], iter.Seq[eris.Ref](slices.Values(refs)), func(emit func(eris.Ref, []byte) error) error {
		for _, ref := range refs {
			if err := emit(ref, m[ref]); err != nil {
				return err
			}
		}
		return nil
	})
	return float64(len(m)) / time.Since(begin).Seconds(), err
}

func getBulk(ctx context.Context, c *ipfs.Client, m blockMap) (float64, error) {
	refs := make([]eris.Ref, 0, len(m))
	for ref := range m {
		refs = append(refs, ref)
	}
	begin := time.Now()
	err := c.Fetch(ctx, eris.Size32KiB, refs, func(i int, b []byte) error {
		if !bytes.Equal(b, m[refs[i]]) {
			return fmt.Errorf("%s is another block", refs[i])
		}
		return nil
	})
	return float64(len(m)) / time.Since(begin).Seconds(), err
}

// eachBlock does something with one block after the other and returns how many
// per second.
func eachBlock(m blockMap, do func(eris.Ref, []byte) error) (float64, error) {
	begin := time.Now()
	for ref, b := range m {
		if err := do(ref, b); err != nil {
			return 0, err
		}
	}
	return float64(len(m)) / time.Since(begin).Seconds(), nil
}

func putOne(ctx context.Context, client *http.Client, api string, block []byte) error {
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, err := form.CreateFormFile("data", "block")
	if err != nil {
		return err
	}
	if _, err := part.Write(block); err != nil {
		return err
	}
	if err := form.Close(); err != nil {
		return err
	}
	_, err = rpc(ctx, client, api+"/api/v0/block/put?cid-codec=raw&mhtype=blake2b-256&pin=true", form.FormDataContentType(), &body)
	return err
}

func getOne(ctx context.Context, client *http.Client, api string, ref eris.Ref, want []byte) error {
	got, err := rpc(ctx, client, api+"/api/v0/block/get?arg="+url.QueryEscape(ipfs.CID(ref)), "", nil)
	if err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("%s is another block", ref)
	}
	return err
}

func rpc(ctx context.Context, client *http.Client, url, contentType string, body io.Reader) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, body)
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, res.Status, text)
	}
	return text, err
}
