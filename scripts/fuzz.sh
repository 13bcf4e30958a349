#!/usr/bin/env bash
# Counts the seeds of every fuzz target, then fuzzes each for a time such as
# 5s, or for an equal share of a total: fuzz.sh 5s, fuzz.sh --total 80.
set -euo pipefail
cd "$(dirname "$0")/.."
least=4 # seeds that a target has at least
targets=$(grep -rlE --include=*_test.go '^func Fuzz' . | xargs -r -n1 dirname | sort -u)
[ -n "$targets" ] || { echo "no fuzz targets" >&2; exit 1; }
work=$(mktemp -d)
log=$work/log
trap 'rm -rf "$work"' EXIT

# Each package is built once, as -fuzz wants it, and its program runs in its
# folder. Seeds run as subtests: FuzzX/seed#0, and FuzzX/NAME from testdata/fuzz.
list=() few=0 n=0
for dir in $targets; do
	n=$((n + 1))
	go test -c -fuzz . -o "$work/$n" "$dir"
	(cd "$dir" && "$work/$n" -test.v -test.run '^Fuzz') >"$log" || { cat "$log"; exit 1; }
	for name in $(grep -hoE '^func Fuzz[A-Za-z0-9_]*' "$dir"/*_test.go | cut -c6-); do
		seeds=$(grep -cE "^ +--- PASS: $name/" "$log" || true)
		echo "$dir $name: $seeds seeds"
		[ "$seeds" -ge $least ] || { echo "$dir $name: fewer than $least seeds" >&2; few=1; }
		list+=("$dir $name $n")
	done
done
[ $few = 0 ] || exit 1

time=$1
if [ "$1" = --total ]; then
	time=$(($2 * 1000 / ${#list[@]}))ms
fi
# fuzz runs one target. Minimizing inputs as long as a block would take all of so
# short a time. The end of the time itself is sometimes reported as a
# failure of the target (go.dev/issue/75804); a real one names its input.
fuzz() {
	(cd "$1" && "$work/$3" -test.run '^$' -test.fuzz "^$2\$" -test.fuzztime "$time" -test.fuzzminimizetime 20x -test.fuzzcachedir "$work/inputs") >"$log" 2>&1 && return 0
	grep -q 'context deadline exceeded' "$log" && ! grep -q 'Failing input' "$log"
}
for target in "${list[@]}"; do
	# shellcheck disable=SC2086
	if ! fuzz $target; then
		cat "$log"
		echo "FAILED: fuzzing $target" >&2
		exit 1
	fi
	echo "${target% *}: $(grep -oE 'execs: [0-9]+' "$log" | tail -1), $time"
done
