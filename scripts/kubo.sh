#!/usr/bin/env bash
# Builds Kubo once, from its Go module, for the tests with a real IPFS daemon,
# and prints the program's path. `go install` refuses the module for the
# replace lines in its go.mod.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
version=v0.40.1
out=$CACHE/kubo-$version
if [ ! -x "$out/ipfs" ]; then
	mkdir -p "$out"
	try go mod download "github.com/ipfs/kubo@$version" >&2 || skip "tests with a real IPFS daemon: the module proxy refused"
	src=$out/src
	rm -rf "$src"
	cp -r "$(go env GOMODCACHE)/github.com/ipfs/kubo@$version" "$src"
	chmod -R u+w "$src"
	build() { (cd "$src" && go build -o ../ipfs.new ./cmd/ipfs) >&2; }
	try build || skip "tests with a real IPFS daemon: its modules are refused"
	mv "$out/ipfs.new" "$out/ipfs"
	rm -rf "$src"
fi
echo "$out/ipfs"
