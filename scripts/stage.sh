# Shared by deb.sh and dist.sh: the files that every package has, below a folder.
# Whoever reads this has set bin, the folder of the programs, and root, an empty
# folder; all that is made says the time of the last commit.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH

# put installs a file: put MODE FROM TO.
put() { install -D -m "$1" "$2" "$root/$3"; }

# page compresses a file, without its name and time.
page() { gzip -9n "$root/$1"; }

# stage installs programs, manual pages, completion and documents below a
# folder of root: stage PREFIX.
stage() {
	local file name scratch=$root/.scratch
	put 755 "$bin/ersatz" "$1/bin/ersatz"
	put 755 "$bin/ersatz-substitute" "$1/libexec/ersatz/ersatz-substitute"
	put 755 packaging/ersatz-guix "$1/libexec/ersatz/ersatz-guix"
	strip "$root/$1/bin/ersatz" "$root/$1/libexec/ersatz/ersatz-substitute"
	mkdir "$scratch"
	"$bin/ersatz" man --date "$(git log -1 --format=%cs)" "$scratch"
	for file in "$scratch"/*; do
		name=${file##*/}
		put 644 "$file" "$1/share/man/man${name##*.}/$name"
		page "$1/share/man/man${name##*.}/$name"
	done
	"$bin/ersatz" completion bash >"$scratch/bash"
	"$bin/ersatz" completion zsh >"$scratch/zsh"
	"$bin/ersatz" completion fish >"$scratch/fish"
	put 644 "$scratch/bash" "$1/share/bash-completion/completions/ersatz"
	put 644 "$scratch/zsh" "$1/share/zsh/${zsh:-site-functions}/_ersatz"
	put 644 "$scratch/fish" "$1/share/fish/vendor_completions.d/ersatz.fish"
	rm -r "$scratch"
	put 644 README.md "$1/share/doc/ersatz/README.md"
	for file in docs/*.md docs/decisions/*.md; do put 644 "$file" "$1/share/doc/ersatz/$file"; done
	licences >"$root/$1/share/doc/ersatz/copyright"
}

# licences repeats those of the modules that the programs have in them.
licences() {
	local module version dir file
	echo "ersatz itself states no licence. It is linked with the Go runtime and the"
	echo "modules below, under their licences."
	while read -r module version dir; do
		printf '\n== %s %s\n' "$module" "$version"
		find "$dir" -maxdepth 1 -type f \( -iname 'licen[cs]e*' -o -iname 'copying*' -o -iname '*_license' -o -iname 'notice*' \) | sort |
			while read -r file; do
				if grep -q 'Version 2.0, January 2004' "$file"; then
					echo "The Apache License 2.0; Debian has it in /usr/share/common-licenses/Apache-2.0."
				else
					cat "$file"
				fi
			done
	done < <(go version -m "$bin/ersatz" "$bin/ersatz-substitute" | awk '$1 == "dep" { print $2 }' | sort -u |
		xargs go list -m -f '{{.Path}} {{.Version}} {{.Dir}}')
}
