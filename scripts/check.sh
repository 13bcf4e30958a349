#!/usr/bin/env bash
# Everything that is checked before a change lands, and in CI. As root it
# installs the programs that tests compare with; otherwise it says what it
# leaves out. `check.sh lint` stops before the tests.
#
# Every step runs even if one before it has failed; the summary at the end
# names the failures, and which tests with real programs ran.
set -uo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
summary=() failed=0

# step runs a function or program under a name and notes its time.
step() {
	local name=$1 start=$SECONDS result=ok
	shift
	echo "== $name"
	"$@" || { result=FAILED failed=1; }
	echo "== $name: $result, $((SECONDS - start)) s"
	summary+=("$(printf '%-6s %5d s  %s' "$result" $((SECONDS - start)) "$name")")
}

note() { summary+=("$(printf '%-15s %s' "$1" "$2")"); }

# Programs that tests use, and the Debian packages that have them.
programs='gcc:gcc ldd:libc-bin git:git debootstrap:debootstrap nix-store:nix-bin lzip:lzip zstd:zstd xz:xz-utils bzip2:bzip2 gzip:gzip'

packages() {
	local pair missing=()
	for pair in $programs; do
		command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
	done
	[ ${#missing[@]} -gt 0 ] || { echo "all programs are here"; return 0; }
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		note SKIPPED "tests that need the Debian packages ${missing[*]}: not root, or not Debian"
		return 0
	fi
	export DEBIAN_FRONTEND=noninteractive
	{ try apt-get update -qq && try apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$logs/apt" 2>&1 || {
		tail -20 "$logs/apt"
		note SKIPPED "tests that need the Debian packages ${missing[*]}: apt-get failed"
	}
}

format() {
	local files
	files=$(git ls-files -co --exclude-standard '*.go' | xargs gofmt -l) || return 1
	[ -z "$files" ] || { echo "not formatted:"; echo "$files"; return 1; }
}

shell() {
	local f
	for f in scripts/*.sh .ci/run packaging/ersatz-guix; do
		[ ! -e "$f" ] || bash -n "$f" || return 1
	done
}

# static wants one file that loads nothing.
static() {
	make -s build && bin/ersatz version || return 1
	if ldd bin/ersatz >"$logs/ldd" 2>&1; then
		echo "bin/ersatz is not static:"
		cat "$logs/ldd"
		return 1
	fi
}

nocgo() {
	make -s build-nocgo && CGO_ENABLED=0 go test ./internal/compress ./cmd/ersatz
}

# real runs the packages whose tests ask for a variable, with it set, and wants
# that none of them skips: real NAME VARIABLE VALUE PATTERN. The variable stays
# set: the last ones want all real parts at once.
real() {
	local name=$1 pattern=$4 dirs ran skipped
	dirs=$(grep -rlE --include=*_test.go "$pattern" . | xargs -r -n1 dirname | sort -u)
	[ -n "$dirs" ] || { note NONE "no tests with a real $name"; return 0; }
	export "$2=$3"
	# shellcheck disable=SC2086
	go test -count=1 -v -timeout 20m $dirs >"$logs/real" 2>&1
	local status=$?
	ran=$(grep -cE '^--- PASS' "$logs/real")
	skipped=$(grep -E -A2 '^ *--- SKIP' "$logs/real")
	if [ $status != 0 ]; then
		grep -vE '^ *(=== |--- PASS)' "$logs/real" | tail -150
	else
		grep -E '^(ok|FAIL)' "$logs/real"
	fi
	[ -z "$skipped" ] || { echo "skipped in these packages:"; echo "$skipped"; }
	note RAN "$ran tests of the packages with a real $name ($2=$3), $(grep -cE '^--- SKIP' "$logs/real") skipped"
	return $status
}

# need runs a script that prints where a real part is. Status 3 means that it
# cannot be had here.
need() {
	local out status
	out=$("$2" 2>"$logs/need")
	status=$?
	case $status in
	0) where=$out ;;
	3) where='' && note SKIPPED "$(sed -n 's/^SKIPPED: //p' "$logs/need" | tail -1)" ;;
	*) where='' && failed=1 && tail -30 "$logs/need" && note FAILED "$2" ;;
	esac
	[ -n "$where" ]
}

report() {
	echo
	echo "== summary, $((SECONDS / 60)) min $((SECONDS % 60)) s"
	printf '%s\n' "${summary[@]}"
	if [ $failed != 0 ]; then
		echo "FAILED"
		exit 1
	fi
	echo "all checks passed"
	exit 0
}

step "programs" packages
step "gofmt" format
step "shell syntax" shell
step "go mod tidy" go mod tidy -diff
step "go vet" go vet ./...
step "staticcheck" go tool staticcheck ./...
step "layers and sizes" go test ./internal/lint
[ "${1:-}" != lint ] || report
step "static build" static
step "without cgo" nocgo
step "tests under the race detector" go test -race -timeout 15m ./...
step "fuzz" scripts/fuzz.sh --total 60
if go run ./cmd/ersatz demo --help >/dev/null 2>&1; then
	step "demo" make -s demo
fi
if need "IPFS daemon" scripts/kubo.sh; then
	step "real IPFS daemon" real "IPFS daemon" ERSATZ_KUBO "$where" 'kubotest\.|ERSATZ_KUBO'
fi
if need "guix-daemon" scripts/guix-root.sh; then
	step "real guix-daemon" real "guix-daemon" ERSATZ_GUIX_ROOT "$where" 'realguix\.|ERSATZ_GUIX_ROOT'
fi
report
