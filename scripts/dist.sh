#!/usr/bin/env bash
# Makes the tarball of the Guix package (packaging/guix) out of programs that
# were built before, and prints its path: dist.sh [BIN [OUT]], by default bin and
# dist. Two runs on one commit make the same bytes.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${1:-bin} dist=${2:-dist}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
. scripts/stage.sh
stage ersatz
mkdir -p "$dist"
out=$dist/ersatz-$(uname -m)-linux.tar.gz
tar --create --directory="$root" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner ersatz | gzip -9n >"$out"
echo "$out"
