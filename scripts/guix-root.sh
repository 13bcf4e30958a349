#!/usr/bin/env bash
# Makes, once, a root folder of Debian sid with Guix for the real-daemon tests,
# and prints its path. Needs root and debootstrap; uses the machine's own
# Debian mirror.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
root=$CACHE/guix-root
complete=$root/.complete-3 # count up when the recipe changes: older roots are made anew
[ "$(id -u)" = 0 ] || skip "tests with a real guix-daemon: not root"
unshare --mount true 2>/dev/null || skip "tests with a real guix-daemon: root may not mount here, as in a container"
if [ -e "$complete" ]; then
	echo "$root"
	exit 0
fi
command -v debootstrap >/dev/null || skip "tests with a real guix-daemon: debootstrap is not installed"
mirror=$({
	awk '$1 == "URIs:" { print $2 }' /etc/apt/sources.list.d/*.sources 2>/dev/null || true
	awk '$1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /^https?:/) print $i }' /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null || true
} | grep -E '/debian/?$' | head -1)
[ -n "$mirror" ] || skip "tests with a real guix-daemon: no Debian mirror in apt's sources"

mounts() { grep -o " $root/[^ ]*" /proc/self/mounts | sort -r || true; }
unmount() { mounts | while read -r m; do umount -l "$m"; done; }
trap unmount EXIT
unmount
mkdir -p "$CACHE"
build() {
	unmount
	[ -z "$(mounts)" ] || return 1 # never delete with /dev bound in
	rm -rf --one-file-system "$root"
	debootstrap --variant=minbase --include=ca-certificates sid "$root" "$mirror" >&2 || return 1
	echo 'Acquire::Check-Valid-Until "false";' >"$root/etc/apt/apt.conf.d/10no-check-valid-until"
	# No service is started inside.
	printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
	chmod +x "$root/usr/sbin/policy-rc.d"
	mount -t proc proc "$root/proc" || return 1
	mount --rbind --make-rslave /dev "$root/dev" || return 1
	# The package's own set-up makes its users by systemd-sysusers, which is not
	# in here, and then wants to give them folders.
	chroot "$root" sh -ec '
		groupadd --system _guixbuild
		for n in 1 2 3 4; do
			useradd -g _guixbuild -G _guixbuild --system --no-create-home -s /usr/sbin/nologin _guixbuilder$n
		done
		useradd --system --user-group --no-create-home -d /var/empty -s /usr/sbin/nologin guix-daemon
	' >&2 || return 1
	DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get install -y -qq --no-install-recommends guix guile-zstd guile-avahi >&2 || return 1
	chroot "$root" apt-get clean || return 1
}
try build || skip "tests with a real guix-daemon: the Debian mirror refused"
unmount
touch "$complete"
echo "$root"
