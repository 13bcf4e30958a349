package ipfs_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/transport/ipfs"
	"ersatz/internal/transport/ipfs/kubotest"
)

// TestGatewayCAR reads contents by the CAR of their manifest from Kubo's
// gateway. Few blocks are asked for by themselves.
func TestGatewayCAR(t *testing.T) {
	d := kubotest.Start(t)
	for _, c := range []struct {
		length, most int
		size         eris.BlockSize
	}{
		{300 << 10, 40, eris.Size1KiB},
		{20 << 20, 10, eris.Size32KiB},
		{7 << 20, 600, eris.Size1KiB}, // two nodes
	} {
		it := newItem(t, 5, c.length, c.size)
		manifest := put(t, newClient(t, d.API), it)
		at, raw := counting(t, d.Gateway(t), 0)
		g := newGateway(t, at+"?manifest="+manifest, 5*time.Second)
		s := g.Open(block.Wanted{ReadCap: it.cap})
		r := eris.NewReader(t.Context(), it.cap, s, eris.ReaderOptions{})
		got, err := io.ReadAll(r)
		r.Close()
		if err != nil || !bytes.Equal(got, it.content) || int(raw.Load()) > c.most {
			t.Errorf("%d of %d bytes, %v; %d of %d blocks were asked for by themselves", len(got), c.length, err, raw.Load(), len(it.refs))
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// sections returns the header and the first n sections of a CAR.
func sections(car []byte, n int) []byte {
	end := 0
	for range 1 + n {
		length, k := binary.Uvarint(car[end:])
		end += k + int(length)
	}
	return car[:end]
}

// TestGatewayCARFaults reads contents by CARs that are not what they should be:
// the blocks come in the other way.
func TestGatewayCARFaults(t *testing.T) {
	it := newItem(t, 6, 500<<10, eris.Size1KiB)
	manifest, _, err := ipfs.Manifest(it.seq())
	if err != nil {
		t.Fatal(err)
	}
	car, err := ipfs.CAR(it.seq(), it.emit)
	if err != nil {
		t.Fatal(err)
	}
	other := newItem(t, 7, 500<<10, eris.Size1KiB)
	otherCAR, err := ipfs.CAR(other.seq(), other.emit)
	if err != nil {
		t.Fatal(err)
	}
	blocks := map[string][]byte{}
	for i, ref := range it.refs {
		blocks[ipfs.CID(ref)] = it.blocks[i]
	}
	wrong := bytes.Clone(car)
	wrong[len(wrong)/2] ^= 1
	send := func(b []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/vnd.ipld.car; version=1")
			w.Write(b)
		}
	}
	for what, c := range map[string]struct {
		car http.HandlerFunc
		err error
	}{
		"sound":          {send(car), nil},
		"none":           {http.NotFound, nil},
		"a page":         {func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("hello")) }, nil},
		"empty":          {send(nil), nil},
		"cut":            {send(car[:len(car)/2]), nil},
		"of another":     {send(otherCAR), nil},
		"with a message": {send(append(car[:len(car)/2:len(car)/2], "[Gateway Error: CAR stream truncated]"...)), nil},
		"silent":         {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, nil},
		"without an end": {func(w http.ResponseWriter, r *http.Request) {
			send(sections(car, 100))(w, r)
			for _, err := w.Write(nil); err == nil && r.Context().Err() == nil; _, err = w.Write(otherCAR[1+int(otherCAR[0]):]) {
			}
		}, nil},
		"silent later": {func(w http.ResponseWriter, r *http.Request) {
			send(car[:len(car)/2])(w, r)
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}, nil},
		"with wrong bytes": {send(wrong), eris.ErrCorrupt},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Query().Get("format") == "car" {
					if !strings.HasSuffix(r.URL.Path, manifest) || r.URL.RawQuery != "format=car&dag-scope=all&car-order=dfs&car-dups=y" {
						t.Errorf("asked for %s", r.URL)
					}
					c.car(w, r)
					return
				}
				w.Header().Set("Content-Type", "application/vnd.ipld.raw")
				w.Write(blocks[strings.TrimPrefix(r.URL.Path, "/ipfs/")])
			}))
			defer s.Close()
			g := newGateway(t, s.URL+"?manifest="+manifest, time.Second)
			session := g.Open(block.Wanted{ReadCap: it.cap})
			defer session.Close()
			r := eris.NewReader(t.Context(), it.cap, session, eris.ReaderOptions{})
			defer r.Close()
			if got, err := io.ReadAll(r); !errors.Is(err, c.err) || err == nil && !bytes.Equal(got, it.content) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
}

// onlyCAR opens an item by a gateway that has nothing but a CAR.
func onlyCAR(t *testing.T, it *item, car []byte) block.Session {
	t.Helper()
	manifest, _, err := ipfs.Manifest(it.seq())
	if err != nil {
		t.Fatal(err)
	}
	g := answers(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("format") != "car" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/vnd.ipld.car; version=1")
		w.Write(car)
	})
	s := newGateway(t, g.String()+"?manifest="+manifest, 20*time.Second).Open(block.Wanted{ReadCap: it.cap})
	t.Cleanup(func() { s.Close() })
	return s
}

// TestGatewayCARTooLarge has a gateway send more than blocks are long: it is not
// kept.
func TestGatewayCARTooLarge(t *testing.T) {
	it := newItem(t, 6, 100<<10, eris.Size1KiB)
	large := make([]byte, 200<<10)
	car, err := ipfs.CAR(it.seq(), func(emit func(eris.Ref, []byte) error) error {
		for _, ref := range it.refs {
			if err := emit(ref, large); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	s := onlyCAR(t, it, car)
	if n, err := fetchAll(t.Context(), s, eris.Size1KiB, it.refs[len(it.refs)-2:][:1]); n != 0 || err != nil {
		t.Errorf("%d blocks, %v", n, err)
	}
	if n, most := ipfs.Kept(s); n > most {
		t.Errorf("%d bytes are kept", n)
	}
}

// TestGatewayCARRepeats reads a content of which most blocks are the same by the
// CAR alone.
func TestGatewayCARRepeats(t *testing.T) {
	it := newItem(t, 6, 10<<10, eris.Size1KiB)
	for range 1000 {
		it.refs, it.blocks = slices.Insert(it.refs, 5, it.refs[5]), slices.Insert(it.blocks, 5, it.blocks[5])
	}
	car, err := ipfs.CAR(it.seq(), it.emit)
	if err != nil {
		t.Fatal(err)
	}
	s := onlyCAR(t, it, car)
	leaves := it.refs[:1010]
	if n, err := fetchAll(t.Context(), s, eris.Size1KiB, leaves); n != len(leaves) || err != nil {
		t.Errorf("%d of %d blocks, %v", n, len(leaves), err)
	}
}

// TestGatewayCARSilent has a gateway send nothing of a CAR: blocks are asked for by
// themselves while there is time for them.
func TestGatewayCARSilent(t *testing.T) {
	it := newItem(t, 6, 100<<10, eris.Size1KiB)
	manifest, _, err := ipfs.Manifest(it.seq())
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		g, err := ipfs.NewGateway("http://gateway.example?manifest="+manifest, &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			if r.URL.Query().Get("format") == "car" {
				<-r.Context().Done()
				return nil, r.Context().Err()
			}
			return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/vnd.ipld.raw"}}, Body: io.NopCloser(bytes.NewReader(it.blocks[3]))}, nil
		})})
		if err != nil {
			t.Fatal(err)
		}
		s := g.Open(block.Wanted{ReadCap: it.cap})
		defer s.Close()
		start := time.Now()
		n, err := fetchAll(t.Context(), s, eris.Size1KiB, it.refs[3:4])
		if took := time.Since(start); n != 1 || err != nil || took != ipfs.DefaultBlockTimeout/2 {
			t.Errorf("%d blocks in %v, %v", n, took, err)
		}
	})
}

// TestGatewayCARCancelled: one call that is cancelled takes nothing away from
// another, and Close ends all.
func TestGatewayCARCancelled(t *testing.T) {
	it := newItem(t, 6, 100<<10, eris.Size1KiB)
	manifest, _, err := ipfs.Manifest(it.seq())
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{})
	g := answers(t, func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
	})
	g, err = ipfs.NewGateway(g.String()+"?manifest="+manifest, nil)
	if err != nil {
		t.Fatal(err)
	}
	g.BlockTimeout = time.Minute
	s := g.Open(block.Wanted{ReadCap: it.cap})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := fetchAll(ctx, s, eris.Size1KiB, it.refs[:10])
		done <- err
	}()
	<-asked
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
