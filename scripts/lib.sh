# Shared by the scripts: where big real parts are kept, how Go builds, and three
# tries.
# What is built, and without what: as in the Makefile.
export GOFLAGS=${GOFLAGS:--tags=disable_libutp,nosqlite,noboltdb}
CACHE=${ERSATZ_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ersatz}

# try runs a command up to three times.
try() {
	local n
	for n in 1 2 3; do
		"$@" && return 0
		echo "try $n of 3 failed: $*" >&2
		sleep $((n * 5))
	done
	return 1
}

# skip says which tests cannot run and why, and ends with the status that the
# Makefile takes for "not here".
skip() {
	echo "SKIPPED: $*" >&2
	exit 3
}
