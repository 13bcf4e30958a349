#!/usr/bin/env bash
# What is not to grow unseen: the sizes of the static programs, and what an idle
# node takes. Times are no budget, since machines differ; allocations are in the
# tests of their packages (docs/performance.md, "Budgets"). Wants bin/, as
# `make build` makes it. Who raises a limit says why in the commit.
set -uo pipefail
cd "$(dirname "$0")/.."
failed=0

# budget NAME VALUE LIMIT: all in one unit, which NAME says.
budget() {
	local verdict=ok
	if [ -z "$2" ] || [ "$2" -gt "$3" ]; then
		verdict="OVER" failed=1
	fi
	printf '%-5s %10s of %10s  %s\n' "$verdict" "${2:-unknown}" "$3" "$1"
}

size() { stat -c %s "$1"; }

# The embedded IPFS node and its QUIC are 22 MB of ersatz, the torrent library
# 15 MB with what they share.
budget "bytes of ersatz" "$(size bin/ersatz)" 43000000
# guix-daemon starts it for each query and each item: it links no network but HTTP,
# no SQLite, no C.
budget "bytes of ersatz-substitute" "$(size bin/ersatz-substitute)" 8300000

dir=$(mktemp -d)
node=
trap '[ -z "$node" ] || kill "$node" 2>/dev/null; rm -rf "$dir"' EXIT

# An idle node: of its own memory, since the program itself is in the page cache
# and can be dropped from it. It was 4 MB with nothing kept.
GOTRACEBACK=all ERSATZ_CONFIG=/dev/null bin/ersatz node --listen 127.0.0.1:0 --socket "$dir/socket" --state "$dir/state" --discover no 2>"$dir/log" &
node=$!
for _ in $(seq 200); do
	grep -q 'node serves' "$dir/log" && break
	sleep 0.1
done
sleep 1
budget "KiB of memory of its own of an idle node" "$(sed -n 's/^RssAnon:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$node/status")" 10240
budget "open files of an idle node" "$(find "/proc/$node/fd" -type l | wc -l)" 40
# Go says what all goroutines do when it is asked to quit.
kill -QUIT "$node"
wait "$node" 2>/dev/null
budget "goroutines of an idle node" "$(grep -c '^goroutine [0-9]' "$dir/log")" 60
node=

if [ $failed != 0 ]; then
	[ ! -s "$dir/log" ] || head -5 "$dir/log"
	exit 1
fi
