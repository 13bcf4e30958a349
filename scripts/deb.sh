#!/usr/bin/env bash
# Makes the Debian package ersatz_VERSION_ARCH.deb out of packaging/ and of
# programs that were built before, and prints its path: deb.sh [BIN [OUT]], by
# default bin and dist. Two runs on one commit make the same bytes. It is for
# one's own machines, not for Debian's archive, which builds Go's modules anew.
#
# DEBFULLNAME and DEBEMAIL say who maintains it, as Debian's own tools have it.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${1:-bin} dist=${2:-dist}
arch=$(dpkg --print-architecture)
version=$(git describe --tags --match 'v[0-9]*' 2>/dev/null | sed 's/^v//; s/-/+/; s/-/./g' || :)
[ -n "$version" ] || version=0~git$(git log -1 --format=%cd --date=format:%Y%m%d).$(git rev-parse --short HEAD)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"

. scripts/stage.sh

# moved has an installed text name the places of this package.
moved() {
	sed -i -e 's,/usr/local/bin/ersatz-guix,/usr/libexec/ersatz/ersatz-guix,; s,/usr/local/bin/ersatz-substitute,/usr/libexec/ersatz/ersatz-substitute,' \
		-e 's,/usr/local/bin/ersatz,/usr/bin/ersatz,; s,^# /etc/systemd/system/,# /usr/lib/systemd/system/,' "$root/$1"
}

zsh=vendor-completions # Debian's place
stage usr
moved usr/libexec/ersatz/ersatz-guix
for unit in ersatz-node.service ersatz-node.socket ersatz-publish.service ersatz-publish.socket; do
	put 644 packaging/$unit usr/lib/systemd/system/$unit
	moved usr/lib/systemd/system/$unit
done
put 644 packaging/guix-daemon-ersatz.conf usr/lib/systemd/system/guix-daemon.service.d/ersatz.conf
moved usr/lib/systemd/system/guix-daemon.service.d/ersatz.conf
put 644 packaging/ersatz.sysusers usr/lib/sysusers.d/ersatz.conf
put 644 packaging/ersatz-node.default etc/default/ersatz-node
put 644 packaging/ersatz-publish.default etc/default/ersatz-publish
put 644 packaging/config etc/ersatz/config
put 644 packaging/debian/lintian-overrides usr/share/lintian/overrides/ersatz

doc=usr/share/doc/ersatz
who="${DEBFULLNAME:-ersatz} <${DEBEMAIL:-ersatz@localhost}>"
{
	echo "ersatz ($version) unstable; urgency=medium"
	echo
	echo "  * Made from commit $(git rev-parse HEAD)."
	echo
	echo " -- $who  $(git log -1 --format=%cD)"
} >"$root/$doc/changelog"
page $doc/changelog

mkdir "$root/DEBIAN"
for script in postinst prerm postrm; do put 755 packaging/debian/$script DEBIAN/$script; done
put 644 packaging/debian/conffiles DEBIAN/conffiles
(cd "$root" && find . -path ./DEBIAN -prune -o -type f -printf '%P\n' | sort | xargs -d '\n' md5sum) >"$root/DEBIAN/md5sums"
chmod 644 "$root/DEBIAN/md5sums"
sed -e "s|@VERSION@|$version|; s|@ARCH@|$arch|; s|@MAINTAINER@|$who|; s|@SIZE@|$(du -sk --apparent-size "$root" | cut -f1)|" \
	packaging/debian/control.in >"$root/DEBIAN/control"
mkdir -p "$dist"
rm -f "$dist"/ersatz_*_"$arch".deb
out=$dist/ersatz_${version}_$arch.deb
dpkg-deb --root-owner-group --build "$root" "$out" >/dev/null
echo "$out"
