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
	"ersatz/internal/transport/transporttest"
)

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

// BenchmarkTransport fetches blocks by way of a forwarder that keeps none of them:
// by our client and producer, and by ndnd's own engine in a bare loop.
func BenchmarkTransport(b *testing.B) {
	for _, flight := range []int{1, 32} {
		b.Run(fmt.Sprintf("ersatz/%d in flight", flight), func(b *testing.B) {
			s, refs := fill(b, eris.Size32KiB, transporttest.Many)
			f := ndntest.StartWithout(b)
			serve(b, s, ndn.Options{Face: f.Face}, ndn.ServerOptions{})
			transporttest.Measure(b, dial(b, ndn.Options{Face: f.Face, InFlight: flight}), refs)
		})
		b.Run(fmt.Sprintf("bare/%d in flight", flight), func(b *testing.B) {
			s, refs := fill(b, eris.Size32KiB, transporttest.Many)
			f := ndntest.StartWithout(b)
			libraryServe(b, f.Face, s)
			e := libraryEngine(b, f.Face)
			transporttest.Measure(b, transporttest.Func(func(_ context.Context, refs []eris.Ref, got func(int, []byte) error) error {
				libraryFetch(b, e, refs, flight, got)
				return nil
			}), refs)
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

func libraryFetch(b *testing.B, e ndnlib.Engine, refs []eris.Ref, flight int, got func(int, []byte) error) {
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
				if err := got(int(i), block); err != nil {
					b.Error(err)
				}
			}
		})
	}
	work.Wait()
}
