package bittorrent

import (
	"bytes"
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"ersatz/internal/block"
	"ersatz/internal/torrent"
)

const (
	// runLength is how many pieces a web seed is asked for at once.
	runLength = 16

	// maxFailures is how often in a row a web seed may fail.
	maxFailures = 3

	// retryAfter is the pause after a failure; it doubles.
	retryAfter = time.Second
)

// serverURLs returns where the metadata of a torrent may be had by HTTP, and the
// web seeds: those of the magnet link, and the servers of the content.
func serverURLs(w block.Wanted, m torrent.Magnet) (sources, seeds []string) {
	name := torrent.Name(w.ReadCap.Root)
	sources = slices.Clone(m.Sources)
	for _, url := range m.WebSeeds {
		if strings.HasSuffix(url, "/") { // BEP 19: the file's name is to follow
			url += name
		}
		seeds = append(seeds, url)
	}
	for _, base := range w.Servers {
		url := strings.TrimSuffix(base, "/") + "/eris/torrent/" + name
		sources, seeds = append(sources, url+".torrent"), append(seeds, url)
	}
	return sources[:min(len(sources), maxServers)], seeds[:min(len(seeds), maxServers)]
}

// askServers asks for the metadata until it is there, one server after another.
func (d *download) askServers(urls []string) {
	ctx, cancel := context.WithCancel(d.ctx)
	defer cancel()
	d.work.Go(func() {
		select {
		case <-d.known: // from a peer
			cancel()
		case <-ctx.Done():
		}
	})
	for _, url := range urls {
		info, err := d.metadata(ctx, url)
		if err == nil {
			err = d.learn(d.t.Load(), info)
		}
		if err == nil || ctx.Err() != nil {
			return
		}
		d.c.log.DebugContext(ctx, "no metadata of a torrent", slog.String("url", url), slog.Any("error", err))
	}
}

// metadata gets a .torrent and returns its info dictionary.
func (d *download) metadata(ctx context.Context, url string) ([]byte, error) {
	resp, err := d.c.get(ctx, url, "")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("answer is %s", resp.Status)
	}
	const most = torrent.MaxInfo + 64<<10 // trackers and web seeds
	text, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err != nil {
		return nil, err
	}
	if len(text) > most {
		return nil, fmt.Errorf("answer has more than %d bytes", most)
	}
	info, ok := infoOf(text)
	if !ok {
		return nil, errors.New("answer is no torrent of a content")
	}
	return info, nil
}

// infoOf returns the info dictionary in a .torrent, if it looks like one that
// package torrent makes. The library would parse any form, as deeply as it is
// nested.
func infoOf(text []byte) ([]byte, bool) {
	const key, pieces = "4:info", "6:pieces"
	begin := bytes.Index(text, []byte(key+"d6:length"))
	if begin < 0 {
		return nil, false
	}
	text = text[begin+len(key):]
	length := bytes.Index(text, []byte(pieces)) + len(pieces)
	digits := bytes.IndexByte(text[length:], ':')
	if length < len(pieces) || digits < 0 || digits > 8 {
		return nil, false
	}
	n, err := strconv.ParseUint(string(text[length:length+digits]), 10, 32)
	end := uint64(length+digits) + 1 + n + 1 // and the dictionary's "e"
	if err != nil || end > uint64(len(text)) {
		return nil, false
	}
	return text[:end], true
}

func (c *Client) get(ctx context.Context, url, span string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if span != "" {
		req.Header.Set("Range", span)
	}
	return c.o.HTTP.Do(req)
}

// runWebSeed fetches pieces from a web seed (BEP 19) while the download lasts:
// those at the end of the queue, which are the last that peers are asked for.
func (d *download) runWebSeed(url string) {
	select {
	case <-d.known:
	case <-d.ctx.Done():
		return
	}
	if d.usable(d.ctx) != nil {
		return
	}
	d.countSeeder(1)
	defer d.countSeeder(-1)
	for failures := 0; failures < maxFailures; {
		pieces, more := d.takeRun()
		if pieces == nil {
			select {
			case <-more:
				continue
			case <-d.ctx.Done():
				return
			}
		}
		d.prioritize()
		err := d.fetchRun(url, pieces)
		d.giveBack(pieces)
		d.prioritize()
		if err == nil {
			failures = 0
			continue
		}
		if d.ctx.Err() != nil {
			return
		}
		d.c.log.DebugContext(d.ctx, "web seed failed", slog.String("url", url), slog.Any("error", err))
		if errors.Is(err, errLies) {
			return
		}
		failures++
		select {
		case <-time.After(retryAfter << (failures - 1)):
		case <-d.ctx.Done():
			return
		}
	}
}

func (d *download) countSeeder(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seeders += n
}

// takeRun takes a run of pieces from the end of the queue, in the order of the
// file. If there are none, more is closed when there may be.
func (d *download) takeRun() (pieces []int, more <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, i := range slices.Backward(d.queue) {
		if n := len(pieces); d.pieces[i].taken || n > 0 && pieces[n-1] != i+1 || n == runLength {
			if n == 0 {
				continue
			}
			break
		}
		pieces = append(pieces, i)
		d.pieces[i].taken = true
	}
	slices.Reverse(pieces)
	return pieces, d.more
}

// giveBack leaves pieces that a web seed did not bring to the others.
func (d *download) giveBack(pieces []int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, i := range pieces {
		d.pieces[i].taken = false
	}
	d.wakeWebSeeds()
}

// errLies says that a web seed gave other bytes.
var errLies = errors.New("bytes are not those of the torrent")

// fetchRun gets consecutive pieces.
func (d *download) fetchRun(url string, pieces []int) error {
	first := int64(pieces[0]) * torrent.PieceLength
	end := min(int64(pieces[len(pieces)-1]+1)*torrent.PieceLength, d.info.Length)
	ctx, cancel := context.WithCancel(d.ctx)
	defer cancel()
	// Others are not asked for the pieces meanwhile: one must come now and then.
	patience := d.c.o.Idle / 2
	late := time.AfterFunc(patience, cancel)
	defer late.Stop()
	resp, err := d.c.get(ctx, url, fmt.Sprintf("bytes=%d-%d", first, end-1))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	whole := resp.StatusCode == http.StatusOK && first == 0
	want := fmt.Sprintf("bytes %d-%d/", first, end-1)
	if !whole && (resp.StatusCode != http.StatusPartialContent || !strings.HasPrefix(resp.Header.Get("Content-Range"), want)) {
		return fmt.Errorf("answer is %s, %q", resp.Status, resp.Header.Get("Content-Range"))
	}
	buf := make([]byte, torrent.PieceLength)
	for _, i := range pieces {
		off := int64(i) * torrent.PieceLength
		buf = buf[:min(torrent.PieceLength, d.info.Length-off)]
		if _, err := io.ReadFull(resp.Body, buf); err != nil {
			return err
		}
		if err := d.put(i, buf); err != nil {
			return err
		}
		late.Reset(patience)
	}
	return nil
}

// put keeps a piece if it is right.
func (d *download) put(i int, b []byte) error {
	if hash(d.info.Pieces[i*len(hash{}):]) != sha1.Sum(b) {
		return errLies
	}
	if err := d.keep(i, b); err != nil {
		return err
	}
	d.t.Load().Piece(i).UpdateCompletion()
	return nil
}

// keep writes a right piece; what the library writes of it afterwards is dropped.
func (d *download) keep(i int, b []byte) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	if _, err := d.file.WriteAt(b, int64(i)*torrent.PieceLength); err != nil {
		return err
	}
	d.verified(i)
	d.noteBytes(len(b))
	return nil
}
