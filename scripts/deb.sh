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
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"

# put installs a file: put MODE FROM TO.
put() { install -D -m "$1" "$2" "$root/$3"; }

# page compresses a file, without its name and time.
page() { gzip -9n "$root/$1"; }

# moved is put for texts that name the places of an installation by hand.
moved() {
	put "$1" "$2" "$3"
	sed -i -e 's,/usr/local/bin/ersatz-guix,/usr/libexec/ersatz/ersatz-guix,; s,/usr/local/bin/ersatz-substitute,/usr/libexec/ersatz/ersatz-substitute,' \
		-e 's,/usr/local/bin/ersatz,/usr/bin/ersatz,; s,^# /etc/systemd/system/,# /usr/lib/systemd/system/,' "$root/$3"
}

put 755 "$bin/ersatz" usr/bin/ersatz
put 755 "$bin/ersatz-substitute" usr/libexec/ersatz/ersatz-substitute
strip "$root/usr/bin/ersatz" "$root/usr/libexec/ersatz/ersatz-substitute"
moved 755 packaging/ersatz-guix usr/libexec/ersatz/ersatz-guix
for unit in ersatz-node.service ersatz-node.socket ersatz-publish.service ersatz-publish.socket; do
	moved 644 packaging/$unit usr/lib/systemd/system/$unit
done
moved 644 packaging/guix-daemon-ersatz.conf usr/lib/systemd/system/guix-daemon.service.d/ersatz.conf
put 644 packaging/ersatz.sysusers usr/lib/sysusers.d/ersatz.conf
put 644 packaging/ersatz-node.default etc/default/ersatz-node
put 644 packaging/ersatz-publish.default etc/default/ersatz-publish
put 644 packaging/config etc/ersatz/config
put 644 packaging/debian/lintian-overrides usr/share/lintian/overrides/ersatz

"$bin/ersatz" man --date "$(git log -1 --format=%cs)" "$root/man"
for file in "$root"/man/*; do
	name=${file##*/}
	put 644 "$file" "usr/share/man/man${name##*.}/$name"
	page "usr/share/man/man${name##*.}/$name"
done
rm -r "$root/man"
"$bin/ersatz" completion bash >"$root/bash"
"$bin/ersatz" completion zsh >"$root/zsh"
"$bin/ersatz" completion fish >"$root/fish"
put 644 "$root/bash" usr/share/bash-completion/completions/ersatz
put 644 "$root/zsh" usr/share/zsh/vendor-completions/_ersatz
put 644 "$root/fish" usr/share/fish/vendor_completions.d/ersatz.fish
rm "$root"/{bash,zsh,fish}

doc=usr/share/doc/ersatz
put 644 README.md $doc/README.md
for file in docs/*.md docs/decisions/*.md; do put 644 "$file" "$doc/$file"; done
who="${DEBFULLNAME:-ersatz} <${DEBEMAIL:-ersatz@localhost}>"
{
	echo "ersatz ($version) unstable; urgency=medium"
	echo
	echo "  * Made from commit $(git rev-parse HEAD)."
	echo
	echo " -- $who  $(git log -1 --format=%cD)"
} >"$root/$doc/changelog"
page $doc/changelog
# The programs have others' modules in them, whose licences want to be repeated.
{
	echo "ersatz itself states no licence. It is linked with the Go runtime and the"
	echo "modules below, under their licences."
	while read -r module v dir; do
		printf '\n== %s %s\n' "$module" "$v"
		find "$dir" -maxdepth 1 -type f \( -iname 'licen[cs]e*' -o -iname 'copying*' -o -iname '*_license' -o -iname 'notice*' \) | sort |
			while read -r file; do
				if grep -q 'Version 2.0, January 2004' "$file"; then
					echo "The Apache License 2.0: /usr/share/common-licenses/Apache-2.0"
				else
					cat "$file"
				fi
			done
	done < <(go version -m "$bin/ersatz" "$bin/ersatz-substitute" | awk '$1 == "dep" { print $2 }' | sort -u |
		xargs go list -m -f '{{.Path}} {{.Version}} {{.Dir}}')
} >"$root/$doc/copyright"

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
