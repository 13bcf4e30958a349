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

# step runs a function or program under a name and notes its time, and the
# seconds of processor time: on n processors it can have n times the former.
step() {
	local name=$1 start=$SECONDS result=ok before
	shift
	before=$(busy)
	echo "== $name"
	"$@" || { result=FAILED failed=1; }
	echo "== $name: $result, $((SECONDS - start)) s"
	summary+=("$(printf '%-6s %5d s %6d s of CPU  %s' "$result" $((SECONDS - start)) $(($(busy) - before)) "$name")")
}

# busy prints the seconds of processor time that all commands so far have had.
# In a subshell only its parent's stat tells: fields 16 and 17, in ticks.
busy() {
	local stat
	read -r stat <"/proc/$$/stat"
	# shellcheck disable=SC2086
	set -- ${stat##*) }
	echo $(((${14} + ${15}) / 100))
}

note() { summary+=("$(printf '%-15s %s' "$1" "$2")"); }

# Programs that tests use, and the Debian packages that have them.
programs='gcc:gcc ldd:libc-bin git:git debootstrap:debootstrap nix-store:nix-bin lzip:lzip zstd:zstd xz:xz-utils bzip2:bzip2 gzip:gzip ip:iproute2 tc:iproute2 nft:nftables avahi-daemon:avahi-daemon avahi-browse:avahi-utils dbus-daemon:dbus-daemon curl:curl systemd-analyze:systemd lintian:lintian groff:groff-base mandoc:mandoc coap-client-openssl:libcoap3-bin gnunet-arm:gnunet aria2c:aria2 mktorrent:mktorrent transmission-show:transmission-cli qemu-aarch64:qemu-user'

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
	local install='apt-get install -y -qq --no-install-recommends' refused=()
	# shellcheck disable=SC2086
	try apt-get update -qq >"$logs/apt" 2>&1 && try $install "${missing[@]}" >>"$logs/apt" 2>&1 && return 0
	# One that this release does not have is not to keep the others away.
	for pair in "${missing[@]}"; do
		# shellcheck disable=SC2086
		$install "$pair" >>"$logs/apt" 2>&1 || refused+=("$pair")
	done
	tail -20 "$logs/apt"
	[ ${#refused[@]} = 0 ] || note SKIPPED "tests that need the Debian packages ${refused[*]}: apt-get failed"
}

format() {
	local files
	files=$(gofmt -l .) || return 1
	[ -z "$files" ] || { echo "not formatted:"; echo "$files"; return 1; }
}

shell() {
	local f
	for f in scripts/*.sh .ci/run packaging/ersatz-guix packaging/debian/p*; do
		[ ! -e "$f" ] || bash -n "$f" || return 1
	done
}

# generated wants the assembly that its generator makes. The generator is a
# module of its own.
generated() {
	local dir=internal/lanes
	if ! try go -C $dir/_asm mod download >"$logs/asm" 2>&1; then
		note SKIPPED "the generator of the assembly: its modules are refused"
		return 0
	fi
	cp -r $dir "$logs/lanes" && (cd "$logs/lanes" && go generate lanes.go && go -C _asm vet ./...) && diff -r $dir "$logs/lanes"
}

# arm64 runs what has assembly for it under emulation.
arm64() {
	if ! command -v qemu-aarch64 >/dev/null; then
		note SKIPPED "tests under emulation of arm64: no qemu-aarch64"
		return 0
	fi
	GOARCH=arm64 go vet ./internal/lanes &&
		GOARCH=arm64 go test -exec qemu-aarch64 ./internal/lanes &&
		GOARCH=arm64 go test -exec qemu-aarch64 -run '(Positive|Negative|Legacy)Vectors' ./eris
}

# static wants programs that load nothing.
static() {
	local program
	make -s build && bin/ersatz version && ERSATZ_CONFIG=/dev/null bin/ersatz-substitute --check || return 1
	for program in bin/ersatz bin/ersatz-substitute; do
		if ldd "$program" >"$logs/ldd" 2>&1; then
			echo "$program is not static:"
			cat "$logs/ldd"
			return 1
		fi
	done
}

# nocgo builds once for both: paths are trimmed in what the Makefile builds.
nocgo() {
	make -s build-nocgo && CGO_ENABLED=0 go test -trimpath ./internal/compress ./cmd/ersatz
}

# failures prints what has failed of a run of tests: the names first, since what
# others have logged can be long.
failures() {
	grep -aE '^ *--- FAIL|^FAIL|^panic:|DATA RACE' "$1"
	grep -avE '^ *(=== |--- (PASS|SKIP))' "$1" | tail -200
}

# race runs the tests under the race detector, those aside that were run before
# and look at sources alone, prints what fails, and names the packages that take
# longest.
race() {
	local status
	# shellcheck disable=SC2046
	go test -race -v -timeout 15m $(go list ./... | grep -v '/internal/lint$') >"$logs/race" 2>&1
	status=$?
	if [ $status = 0 ]; then
		grep -aE '^ok' "$logs/race"
	else
		failures "$logs/race"
	fi
	note SLOWEST "$(awk '$1 == "ok" && $3 ~ /s$/ { print $3 + 0, $2 }' "$logs/race" | sort -rn | head -8 | awk '{ printf "%s %d s  ", $2, $1 }')"
	return $status
}

# skipped prints, of the tests of a package that ran under the race detector,
# those that were skipped, or had a part that was: NAME|NAME|…; nothing if there
# are none, or that is not known: then all are run.
skipped() {
	awk -v package="ersatz${1#.}" '
		/^ *--- SKIP: / { sub(/\/.*/, "", $3); names = names "|" $3 }
		/^(ok|FAIL|\?) *\t/ { if ($1 == "ok" && $2 == package) print substr(names, 2); names = "" }
	' "$logs/race"
}

# real runs, with the programs that need has found, the tests of all packages
# that ask for one. Those that ran without are not run again. A test that still
# skips is named.
real() {
	local dirs dir names status=0 version line
	dirs=$(grep -rlE --include=*_test.go 'kubotest\.|realguix\.|EnvRoot|ERSATZ_(KUBO|GUIX_ROOT)' . | xargs -r -n1 dirname | sort -u)
	[ -n "$dirs" ] || { echo "no tests with real programs"; return 1; }
	for dir in $dirs; do # one after another: each has daemons of its own
		names=$(skipped "$dir")
		env "${found[@]}" go test -count=1 -v -timeout 20m ${names:+-run "^($names)\$"} "$dir" >>"$logs/real" 2>&1 || status=1
	done
	if [ $status = 0 ]; then
		grep -aE '^(ok|FAIL)' "$logs/real"
	else
		failures "$logs/real"
	fi
	note RAN "$(grep -acE '^--- PASS' "$logs/real") tests of $(echo "$dirs" | wc -l) packages, with ${found[*]:-no real program}"
	version=$(grep -aoiE -m1 'guix[a-z-]* \(GNU Guix\) [0-9.]+' "$logs/real")
	[ -z "$version" ] || note GUIX "$version"
	while read -r line; do note SKIPPED "$line"; done < <(grep -aE '^--- SKIP' "$logs/real" | sed 's/^--- SKIP: //')
	return $status
}

# need runs a script that prints where a real program is, for the variable
# that tests look at. Status 3 means that it cannot be had here.
need() {
	local out status
	out=$("$2" 2>"$logs/need")
	status=$?
	case $status in
	0) found+=("$1=$out") ;;
	3) note SKIPPED "$(sed -n 's/^SKIPPED: //p' "$logs/need" | tail -1)" ;;
	*) tail -30 "$logs/need" && return 1 ;;
	esac
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
step "generated assembly" generated
[ "${1:-}" != lint ] || report
step "arm64 under emulation" arm64
step "static build" static
step "budgets of sizes and of an idle node" scripts/budgets.sh
step "without cgo" nocgo
step "tests under the race detector" race
step "fuzz" scripts/fuzz.sh --total 60
if go run ./cmd/ersatz demo --help >/dev/null 2>&1; then
	step "demo" make -s demo
fi
found=()
step "build an IPFS daemon" need ERSATZ_KUBO scripts/kubo.sh
step "make a root folder with Guix" need ERSATZ_GUIX_ROOT scripts/guix-root.sh
step "lay systemd over it" need ERSATZ_SYSTEMD_LAYER scripts/systemd-layer.sh
step "tests with real programs" real
report
