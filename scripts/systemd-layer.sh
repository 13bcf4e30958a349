#!/usr/bin/env bash
# Makes, once, what systemd adds to the root folder with Guix: a folder to lay
# over that one, for tests with systemd as process 1. Prints its path. Needs
# root.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
layer=$CACHE/systemd-layer
lower=$(scripts/guix-root.sh)
complete=$layer/.complete-1 # count up when the recipe changes
# A root folder that was made anew is another one.
if [ -e "$complete" ] && [ "$complete" -nt "$lower" ]; then
	echo "$layer"
	exit 0
fi
work=$CACHE/systemd-layer.work
root=$work/root
unmount() {
	local m
	for m in "$root/proc" "$root/dev" "$root"; do
		! mountpoint -q "$m" || umount -l "$m"
	done
}
trap unmount EXIT
build() {
	unmount
	rm -rf --one-file-system "$layer" "$work"
	mkdir -p "$layer" "$work/work" "$root"
	mount -t overlay -o "lowerdir=$lower,upperdir=$layer,workdir=$work/work" overlay "$root" >&2 ||
		skip "tests with systemd: no overlay can be mounted here"
	mount -t proc proc "$root/proc" || return 1
	mount --rbind --make-rslave /dev "$root/dev" || return 1
	chroot "$root" apt-get update -qq >&2 || return 1
	DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get install -y -qq --no-install-recommends systemd dbus >&2 || return 1
	chroot "$root" apt-get clean || return 1
	rm -rf "$root/var/lib/apt/lists"
}
try build || skip "tests with systemd: the Debian mirror refused"
unmount
rm -rf --one-file-system "$work"
touch "$complete"
echo "$layer"
