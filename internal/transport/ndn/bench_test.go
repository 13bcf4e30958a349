package ndn_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	enc "github.com/named-data/ndnd/std/encoding"
	"github.com/named-data/ndnd/std/engine"
	ndnface "github.com/named-data/ndnd/std/engine/face"
	ndnlib "github.com/named-data/ndnd/std/ndn"
	"github.com/named-data/ndnd/std/security/signer"
	"github.com/named-data/ndnd/std/types/optional"

	"ersatz/eris"
	"ersatz/internal/block/blocktest"
	"ersatz/internal/block/memstore"
	"ersatz/internal/transport/ndn"
	"ersatz/internal/transport/ndn/ndntest"
)

// many is how many blocks of 32 KiB a benchmark fetches.
const many = 2000

// fill returns a store of n blocks of a size and their references.
func fill(t testing.TB, size eris.BlockSize, n int) (*memstore.Store, []eris.Ref) {
	t.Helper()
	s := memstore.New()
	refs := make([]eris.Ref, n)
	for i := range refs {
		ref, b := blocktest.Make(size, uint64(i))
		refs[i] = ref
		if err := s.Put(context.Background(), ref, b); err != nil {
			t.Fatal(err)
		}
	}
	return s, refs
}

// BenchmarkFetch fetches 2,000 blocks by way of a forwarder that keeps none of
// them, and verifies them.
func BenchmarkFetch(b *testing.B) {
	for _, flight := range []int{1, 32} {
		b.Run(fmt.Sprint(flight), func(b *testing.B) {
			s, refs := fill(b, eris.Size32KiB, many)
			f := ndntest.StartWithout(b)
			serve(b, s, ndn.Options{Face: f.Face}, ndn.ServerOptions{})
			c := dial(b, ndn.Options{Face: f.Face, InFlight: flight})
			for b.Loop() {
				var n atomic.Int32
				err := c.Fetch(b.Context(), eris.Size32KiB, refs, func(i int, block []byte) error {
					if eris.BlockRef(block) != refs[i] {
						return eris.ErrCorrupt
					}
					n.Add(1)
					return nil
				})
				if err != nil || n.Load() != many {
					b.Fatal(n.Load(), err)
				}
			}
			b.ReportMetric(float64(b.N)*many/b.Elapsed().Seconds(), "blocks/s")
		})
	}
}

// BenchmarkLibrary does so by ndnd's own engine, in a bare loop.
func BenchmarkLibrary(b *testing.B) {
	for _, flight := range []int{1, 32} {
		b.Run(fmt.Sprint(flight), func(b *testing.B) {
			s, refs := fill(b, eris.Size32KiB, many)
			f := ndntest.StartWithout(b)
			libraryServe(b, f.Face, s)
			e := libraryEngine(b, f.Face)
			for b.Loop() {
				libraryFetch(b, e, refs, flight)
			}
			b.ReportMetric(float64(b.N)*many/b.Elapsed().Seconds(), "blocks/s")
		})
	}
}

func libraryEngine(b testing.TB, face string) ndnlib.Engine {
	f := ndnface.NewStreamFace("unix", strings.TrimPrefix(face, "unix://"), true)
	f.OnDown(func() {}) // else it ends the program
	e := engine.NewBasicEngine(f)
	if err := e.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = e.Stop() })
	return e
}

func libraryName(ref eris.Ref, seg uint64) enc.Name {
	return enc.Name{enc.NewGenericComponent("eris"), enc.NewKeywordComponent("eris1"),
		enc.NewGenericBytesComponent(ref[:]), enc.NewSegmentComponent(seg)}
}

func libraryServe(b *testing.B, face string, s *memstore.Store) {
	e := libraryEngine(b, face)
	prefix := enc.Name{enc.NewGenericComponent("eris"), enc.NewKeywordComponent("eris1")}
	sign := signer.NewSha256Signer()
	err := e.AttachHandler(prefix, func(args ndnlib.InterestHandlerArgs) {
		name := args.Interest.Name()
		seg := name[3].NumberVal()
		block, err := s.Get(context.Background(), eris.Ref(name[2].Val))
		if err != nil {
			b.Error(err)
			return
		}
		data, err := e.Spec().MakeData(name, &ndnlib.DataConfig{
			Freshness:    optional.Some(365 * 24 * time.Hour),
			FinalBlockID: optional.Some(enc.NewSegmentComponent(3)),
		}, enc.Wire{block[seg*8192:][:8192]}, sign)
		if err != nil {
			b.Error(err)
			return
		}
		if err := args.Reply(data.Wire); err != nil {
			b.Error(err)
		}
	})
	if err != nil {
		b.Fatal(err)
	}
	if err := e.RegisterRoute(prefix); err != nil {
		b.Fatal(err)
	}
}

func libraryFetch(b *testing.B, e ndnlib.Engine, refs []eris.Ref, flight int) {
	var next atomic.Int32
	var work sync.WaitGroup
	for range flight {
		work.Go(func() {
			block := make([]byte, eris.Size32KiB)
			done := make(chan bool, 4)
			for i := next.Add(1) - 1; int(i) < len(refs); i = next.Add(1) - 1 {
				for seg := range uint64(4) {
					interest, err := e.Spec().MakeInterest(libraryName(refs[i], seg), &ndnlib.InterestConfig{
						MustBeFresh: true, Nonce: optional.Some(rand.Uint32()), Lifetime: optional.Some(4 * time.Second),
					}, nil, nil)
					if err == nil {
						err = e.Express(interest, func(args ndnlib.ExpressCallbackArgs) {
							if args.Result == ndnlib.InterestResultData {
								copy(block[seg*8192:], args.Data.Content().Join())
							}
							done <- args.Result == ndnlib.InterestResultData
						})
					}
					if err != nil {
						b.Error(err)
						return
					}
				}
				for range 4 {
					if !<-done {
						b.Errorf("block %d: an Interest came to nothing", i)
					}
				}
				if eris.BlockRef(block) != refs[i] {
					b.Errorf("block %d is another one", i)
				}
			}
		})
	}
	work.Wait()
}
