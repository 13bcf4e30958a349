package realguix

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// someSystem is a Guix System with all services of the channel, some with
// options.
const someSystem = `(use-modules (gnu) (ersatz services) (guix gexp))
(operating-system
  (host-name "test")
  (bootloader (bootloader-configuration (bootloader grub-bootloader) (targets '("/dev/sdX"))))
  (file-systems (cons (file-system (device "/dev/sda1") (mount-point "/") (type "ext4")) %base-file-systems))
  (services
   (cons* (service ersatz-node-service-type
                   (ersatz-node-configuration
                    (listen "[::]:8181")
                    (upstreams '("http://one.example" "http://two.example"))
                    (peers '("http://peer.example"))
                    (share "lan")
                    (share-lists (list (local-file "share.acl")))
                    (from '("ipfs:" "ndn:"))
                    (serve '("coap+tcp://0.0.0.0"))
                    (upload-limit "2MB")
                    (authorized-keys (list (local-file "server.pub")))))
          (service ersatz-publish-service-type
                   (ersatz-publish-configuration
                    (listen "127.0.0.1:80")
                    (bake-roots '("/var/guix/profiles/system"))
                    (serve '("ipfs:" "coap+tcp://0.0.0.0"))
                    (upload-limit "10MB")))
          (modify-services %base-services
            (guix-service-type config => (guix-with-ersatz config))))))
`

// TestChannel has the real Guix make the derivation of a system out of the
// channel, and looks at what its shepherd would run. Nothing is built: what that
// needs would have to be downloaded.
func TestChannel(t *testing.T) {
	w := withErsatz(t)
	w.daemon(DaemonOptions{})
	for _, file := range []string{".guix-channel", "packaging/guix/ersatz/packages.scm", "packaging/guix/ersatz/services.scm"} {
		w.check(w.CopyFile("../../"+file, "/root/checkout/"+file, 0o644))
	}
	dist := t.TempDir()
	bin, err := buildErsatz()
	w.check(err)
	out, err := run(exec.Command("../../scripts/dist.sh", bin, dist))
	w.check(err)
	tarball := strings.TrimSpace(out)
	w.check(w.CopyFile(tarball, "/root/checkout/dist/"+filepath.Base(tarball), 0o644))
	w.check(w.WriteFile("/root/checkout/os.scm", []byte(someSystem), 0o644))
	w.check(w.WriteFile("/root/checkout/server.pub", w.key.Public().Text(), 0o644))
	w.check(w.WriteFile("/root/checkout/share.acl", []byte("(acl)"), 0o644))

	// Where guix pull would look for the modules.
	w.check(w.WriteFile("/root/channel.scm", []byte(`(use-modules (guix channels))
(display ((@@ (guix channels) channel-metadata-directory)
          ((@@ (guix channels) read-channel-metadata-from-source) "/root/checkout")))`), 0o644))
	channel, err := w.Run(w.ctx, "guix", "repl", "/root/channel.scm")
	w.check(err)
	w.wantIn(channel, "packaging/guix")
	system, err := w.Run(w.ctx, "guix", "system", "build", "--derivation", "--no-grafts", "-L", "/root/checkout/packaging/guix", "/root/checkout/os.scm")
	w.check(err)
	if !strings.Contains(system, "-system.drv") {
		t.Fatalf("no derivation of a system:\n%s", system)
	}

	node := w.builder("shepherd-ersatz-node.scm")
	w.wantIn(node, `"--upstream=http://one.example" "--upstream=http://two.example"`, `"--peer=http://peer.example"`, `"--share=lan"`,
		`"--from=ipfs:" "--from=ndn:" "--serve=coap+tcp://0.0.0.0" "--upload-limit=2MB"`, `AF_INET6 (inet-pton AF_INET6 "::") 8181`, `"/run/ersatz/node.sock"`, `#:user "ersatz-node"`, `#:lazy-start? #f`)
	publish := w.builder("shepherd-ersatz-publish.scm")
	w.wantIn(publish, `"--user=ersatz" "--cache=/var/cache/ersatz"`, `"--bake-roots=/var/guix/profiles/system" "--serve=ipfs:" "--serve=coap+tcp://0.0.0.0" "--upload-limit=10MB"`,
		`AF_INET (inet-pton AF_INET "127.0.0.1") 80`)
	w.wantIn(w.builder("shepherd-guix-daemon.scm"), `"GUIX=/run/current-system/profile/libexec/ersatz/ersatz-guix"`)
	w.wantIn(w.builder("acl"), "-server.pub")
	w.wantIn(w.builder("profile"), "-ersatz-0")

	// The programs take these options.
	for _, text := range []string{node, publish} {
		w.wantOptions(text)
	}
}

// builder returns the text of the builder of the only store item with a name.
func (w *world) builder(name string) string {
	w.t.Helper()
	files, err := filepath.Glob(w.Path("/gnu/store/") + "*-" + name + "-builder")
	w.check(err)
	var texts []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		w.check(err)
		texts = append(texts, string(text))
	}
	if len(texts) == 0 {
		w.t.Fatalf("no builder of %s", name)
	}
	return strings.Join(texts, "\n")
}

func (w *world) wantIn(text string, words ...string) {
	w.t.Helper()
	for _, word := range words {
		if !strings.Contains(text, word) {
			w.t.Errorf("no %s in\n%s", word, tail([]byte(text)))
		}
	}
}

// wantOptions runs the command line of a shepherd service with one more option,
// whose value is wrong: that is complained about when the others are known.
func (w *world) wantOptions(service string) {
	w.t.Helper()
	command := regexp.MustCompile(`\(list "[^"]*/bin/ersatz" ((?:"[^"]*" ?)+)\)`).FindStringSubmatch(service)
	if command == nil {
		w.t.Fatalf("no command line in %s", service)
	}
	var args []string
	for _, m := range regexp.MustCompile(`"([^"]*)"`).FindAllStringSubmatch(command[1], -1) {
		args = append(args, m[1])
	}
	out, err := w.Run(w.ctx, programPath, append(args, "--log-level=wrong")...)
	if err == nil || !strings.Contains(out, "--log-level:") {
		w.t.Errorf("%q: %v\n%s", args, err, out)
	}
}
