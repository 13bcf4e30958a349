package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"ersatz/guixsig"
	"ersatz/internal/durable"
	"ersatz/nixsig"
)

// defaultACL is where Guix keeps the keys that a machine accepts.
const defaultACL = "/etc/guix/acl"

func (a *app) keygenCommand() *cobra.Command {
	var nixName string
	cmd := &cobra.Command{
		Use:   "keygen [--nix NAME] [DIR]",
		Short: "Make a key pair for signing narinfos",
		Long: `Make a key pair and write it to signing-key.pub and signing-key.sec in DIR (by
default the current folder), in the format of "guix archive --generate-key".
DIR is made if it is missing. Guix keeps its own pair in /etc/guix. Existing
files are never overwritten.

With --nix, the pair is one for Nix, in nix-key.pub and nix-key.sec, in the format
of "nix-store --generate-binary-cache-key". Its name, such as cache.example.org-1,
is that of the server and a number, by convention.`,
		Example: `  ersatz keygen
  sudo ersatz keygen /etc/guix
  sudo ersatz keygen --nix cache.example.org-1 /etc/nix`,
		Args: cobra.MaximumNArgs(1),
		RunE: a.run(func(cmd *cobra.Command, args []string) error {
			dir := append(args, ".")[0]
			if cmd.Flags().Changed("nix") {
				return a.keygenNix(nixName, dir)
			}
			return a.keygen(dir)
		}),
		ValidArgsFunction: dirArgs,
	}
	cmd.Flags().StringVar(&nixName, "nix", "", "make a pair for Nix, with this `NAME`")
	return cmd
}

func (a *app) keygen(dir string) error {
	key, err := guixsig.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	if err := writeKeys(filepath.Join(dir, "signing-key"), key.Text(), key.Public().Text()); err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.stdout, key.Public())
	return err
}

func (a *app) keygenNix(name, dir string) error {
	key, err := nixsig.GenerateKey(name, rand.Reader)
	if err != nil {
		return usageError(err)
	}
	if err := writeKeys(filepath.Join(dir, "nix-key"), []byte(key.Text()), []byte(key.Public().String())); err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.stdout, key.Public())
	return err
}

// writeKeys writes a key pair to BASE.pub and BASE.sec, which must not be
// there.
func writeKeys(base string, secret, public []byte) error {
	for _, name := range []string{base + ".pub", base + ".sec"} {
		if _, err := os.Lstat(name); err == nil {
			return fmt.Errorf("%s exists; a key is never overwritten", name)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := writeFile(base+".sec", 0o600, secret); err != nil {
		return err
	}
	if err := writeFile(base+".pub", 0o644, public); err != nil {
		return errors.Join(err, os.Remove(base+".sec"))
	}
	return nil
}

func (a *app) authorizeCommand() *cobra.Command {
	var acl string
	cmd := &cobra.Command{
		Use:   "authorize [--acl FILE] [KEY|-]",
		Short: "Accept substitutes signed by a key",
		Long: `Add the public key in the file KEY, by default standard input, to the access
control list of the machine, as "guix archive --authorize" does. The list is
replaced in one step; it is made if it is missing.

Without --acl it is $ERSATZ_ACL, else ` + defaultACL + `. On a Guix System whose list
is part of the configuration, change the configuration instead.`,
		Example: `  curl -fsS http://server.example:8080/signing-key.pub | sudo ersatz authorize
  ersatz authorize --acl test.acl signing-key.pub`,
		Args: cobra.MaximumNArgs(1),
		RunE: a.run(func(_ *cobra.Command, args []string) error {
			return a.authorize(a.aclPath(acl), append(args, "-")[0])
		}),
	}
	cmd.Flags().StringVar(&acl, "acl", "", "`FILE` to add the key to")
	markFilename(cmd, "acl")
	return cmd
}

// aclPath returns the ACL that a flag names, or the default.
func (a *app) aclPath(flag string) string {
	for _, s := range []string{flag, a.getenv("ERSATZ_ACL")} {
		if s != "" {
			return s
		}
	}
	return defaultACL
}

func (a *app) authorize(path, keyName string) error {
	text, err := a.readAll(keyName, 1<<20)
	if err != nil {
		return err
	}
	from := keyName
	if from == "-" {
		from = "standard input"
	}
	if len(bytes.TrimSpace(text)) == 0 {
		return usageError(fmt.Errorf("%s is empty: no key came", from)) // such as from a server that is down
	}
	key, err := guixsig.ParsePublicKey(text)
	if err != nil {
		return usageError(fmt.Errorf("%s: %w", from, err))
	}
	// A link stays: what it leads to is replaced.
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	if strings.HasPrefix(path, "/gnu/store/") || strings.HasPrefix(path, "/nix/store/") {
		return fmt.Errorf("%s is a store item: authorize the key in the system's configuration", path)
	}
	acl, perm, err := readACL(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if acl.Authorizes(key) {
		_, err := fmt.Fprintf(a.stdout, "%s is authorized already\n", key)
		return err
	}
	if err := writeFile(path, perm, acl.Add(key).Text()); err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.stdout, "%s is authorized\n", key)
	return err
}

// noACL says what to do about err, which is that there is no ACL.
func noACL(err error) error {
	return fmt.Errorf("no list of authorized keys: %w (\"ersatz authorize\" makes it, --acl names another)", err)
}

// readACL reads an ACL and its permissions, those of a new one if there is
// none.
func readACL(path string) (guixsig.ACL, fs.FileMode, error) {
	text, err := readFile(path)
	if err != nil {
		return guixsig.ACL{}, 0o644, err
	}
	acl, err := guixsig.ParseACL(text)
	if err != nil {
		return guixsig.ACL{}, 0, usageError(fmt.Errorf("%s: %w", path, err))
	}
	fi, err := os.Stat(path)
	if err != nil {
		return guixsig.ACL{}, 0, err
	}
	return acl, fi.Mode().Perm(), nil
}

// writeFile writes a file, whose folder is made if it is missing.
func writeFile(path string, perm fs.FileMode, text []byte) error {
	err := durable.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = durable.WriteFile(path, perm, func(w io.Writer) error {
			_, err := w.Write(text)
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// dirArgs makes the shell offer folders for an argument.
func dirArgs(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveFilterDirs
}
