package eris

import (
	"bytes"
	"testing"
)

// The order is that in which the encoder finishes levels: its blocks say so.
func TestShape(t *testing.T) {
	for _, size := range []BlockSize{Size1KiB, Size32KiB} {
		arity := int64(size.Arity())
		for _, leaves := range []int64{1, 2, arity - 1, arity, arity + 1, 2 * arity, arity*arity + 1} {
			if leaves*int64(size) > 64<<20 {
				continue
			}
			length := leaves*int64(size) - 1
			s := NewShape(size, length)
			byLevel := map[int]int64{}
			c, _, err := Encode(bytes.NewReader(make([]byte, length)), size, Secret{}, func(b Block) error {
				if n, ok := s.Number(b.Level, byLevel[b.Level]); !ok {
					t.Fatalf("%v, %d leaves: no node %d of level %d", size, leaves, byLevel[b.Level], b.Level)
				} else if level, index := s.Locate(n); level != b.Level || index != byLevel[b.Level] {
					t.Errorf("node %d is %d of level %d", n, index, level)
				}
				byLevel[b.Level]++
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if s.Level() != int(c.Level) || s.Leaves() != leaves || s.Size() != size {
				t.Errorf("%v, %d leaves: level %d, not %d; %d leaves", size, leaves, s.Level(), c.Level, s.Leaves())
			}
			nodes := int64(0)
			for level, n := range byLevel {
				nodes += n
				if s.Width(level) != n {
					t.Errorf("%v, %d leaves: level %d has %d, not %d", size, leaves, level, s.Width(level), n)
				}
			}
			if s.Nodes() != nodes {
				t.Errorf("%v, %d leaves: %d nodes, not %d", size, leaves, s.Nodes(), nodes)
			}
			for level := 1; level <= s.Level(); level++ {
				next := s.First(level - 1)
				for index := range s.Width(level) {
					from, to := s.Children(level, index)
					if from != next || to <= from || to-from > arity {
						t.Fatalf("children of %d on level %d are %d to %d", index, level, from, to)
					}
					next = to
				}
				if next != s.First(level) {
					t.Errorf("level %d has children up to %d", level, next)
				}
			}
			if _, ok := s.Number(0, leaves); ok {
				t.Error("there is a leaf too many")
			}
		}
	}
	if s := NewShape(Size1KiB, -1); s.Nodes() != 0 || s.Level() != -1 || s.Width(0) != 0 {
		t.Error("a length below zero has nodes")
	}
}

func TestShapeOfNodes(t *testing.T) {
	for _, size := range []BlockSize{Size1KiB, Size32KiB} {
		next := int64(1) // leaves of the next tree that there is
		for nodes := int64(-1); nodes < 3000; nodes++ {
			want := shapeOf(size, next)
			s, ok := ShapeOfNodes(size, nodes)
			if ok != (want.nodes == nodes) || ok && s.Leaves() != next {
				t.Fatalf("%v, %d nodes: %v, %d leaves", size, nodes, ok, s.Leaves())
			}
			if ok {
				next++
			}
		}
		for _, leaves := range []int64{1 << 20, 1<<30 + 7, 1 << 40} {
			if s, ok := ShapeOfNodes(size, shapeOf(size, leaves).nodes); !ok || s.Leaves() != leaves {
				t.Errorf("%v, %d leaves: %v, %d", size, leaves, ok, s.Leaves())
			}
		}
	}
}
