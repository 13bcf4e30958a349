# make build    static binaries, ./bin/ersatz and ./bin/ersatz-substitute
# make demo     the whole path in one temporary folder
# make check    every test; as root it installs what they need
# make test     the quick tests, under the race detector
# make bench    ersatz beside others, 20 minutes; writes docs/benchmarks.md; BENCH=eris,nar prints some, BENCH_WRITE=1 writes these
# make bench-quick  what shows that something has become slower, two minutes, beside docs/benchmarks.md; writes nothing
# make bench-net  swarms, liars, kills, bad lines, half an hour; BENCH=swarm,fast some; writes docs/benchmarks-net.md
# make man      manual pages of all commands, ./dist/man
# make dist     the same as a tarball for the Guix package, ./dist/*.tar.gz
# make deb      the same with units as a Debian package, ./dist/*.deb
# make soak     what takes long: contents of 1 GiB, nodes in faults for 15 minutes, a minute of each fuzz target
.POSIX:
.PHONY: all build build-nocgo demo test lint fuzz bench bench-quick bench-net man dist deb soak check clean

# The BitTorrent library would bring uTP in C++ and two databases along.
TAGS = disable_libutp,nosqlite,noboltdb
export GOFLAGS = -tags=$(TAGS)

# libzstd is linked in; the resolver and the user look-up are Go's own, so that
# nothing is loaded at run time. What guix-daemon runs has no C in it.
STATIC = -trimpath -tags netgo,osusergo,$(TAGS) -ldflags '-s -w -linkmode external -extldflags "-static"'

all: build

build:
	CGO_ENABLED=1 go build $(STATIC) -o bin/ersatz ./cmd/ersatz
	CGO_ENABLED=0 go build -trimpath -ldflags="-s -w" -o bin/ersatz-substitute ./cmd/ersatz-substitute

# Needs no C compiler; zstd is compressed in Go, larger at level 19.
build-nocgo:
	CGO_ENABLED=0 go build -trimpath -o bin/ersatz-nocgo ./cmd/ersatz

demo:
	go run ./cmd/ersatz demo

test:
	go test -race ./...

lint:
	scripts/check.sh lint

# FUZZTIME is for each target: make fuzz FUZZTIME=1m
FUZZTIME = 5s

fuzz:
	scripts/fuzz.sh $(FUZZTIME)

bench:
	go run ./internal/bench/cmd

bench-quick:
	go run ./internal/bench/cmd quick

bench-net:
	go run ./internal/bench/cmd net

man: build
	rm -rf dist/man
	bin/ersatz man --date "$$(git log -1 --format=%cs)" dist/man

dist: build
	scripts/dist.sh

deb: build
	scripts/deb.sh

soak:
	ERSATZ_LONG=1 go test -count=1 -timeout 1h ./eris
	ERSATZ_LONG=15 go test -race -count=1 -v -run TestSoak -timeout 1h ./internal/noded
	scripts/fuzz.sh 1m

check:
	scripts/check.sh

clean:
	rm -rf bin dist
