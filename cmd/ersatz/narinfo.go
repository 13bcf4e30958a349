package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"ersatz/guixsig"
	"ersatz/narinfo"
	"ersatz/nixsig"
)

func (a *app) narinfoCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "narinfo",
		Short: "Sign and verify narinfos",
		Example: `  ersatz narinfo sign --public-key signing-key.pub --private-key signing-key.sec item.narinfo
  ersatz narinfo verify --acl /etc/guix/acl item.narinfo`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.narinfoSignCommand(), a.narinfoVerifyCommand())
	return cmd
}

func (a *app) narinfoSignCommand() *cobra.Command {
	var public, private, host string
	cmd := &cobra.Command{
		Use:   "sign --public-key FILE --private-key FILE NARINFO|-",
		Short: "Print a narinfo with its Signature line appended",
		Long: `Print the text of a narinfo unchanged, with a Signature line over all of it
appended. The text ends with a newline and has no Signature yet; what is to
stand below the signature (URL, Compression, FileSize) is added afterwards.`,
		Example: `  ersatz narinfo sign --public-key signing-key.pub --private-key signing-key.sec item.narinfo
  ersatz narinfo sign --public-key key.pub --private-key key.sec - < unsigned > signed`,
		Args: cobra.ExactArgs(1),
		RunE: a.run(func(_ *cobra.Command, args []string) error {
			return a.narinfoSign(public, private, host, args[0])
		}),
	}
	f := cmd.Flags()
	f.StringVar(&public, "public-key", "", "`FILE` with the public key")
	f.StringVar(&private, "private-key", "", "`FILE` with the private key")
	f.StringVar(&host, "host", "", "`NAME` that tells people who signed (default: the machine's)")
	markFilename(cmd, "public-key", "pub")
	markFilename(cmd, "private-key", "sec")
	markRequired(cmd, "public-key", "private-key")
	return cmd
}

func (a *app) narinfoSign(public, private, host, name string) error {
	key, err := readKeyPair(public, private)
	if err != nil {
		return err
	}
	if host == "" {
		if host, err = os.Hostname(); err != nil {
			return err
		}
	}
	text, _, err := a.readNarinfo(name)
	if err != nil {
		return err
	}
	signed, err := narinfo.SignGuix(text, key, host)
	if err != nil {
		return usageError(fmt.Errorf("%s: %w", name, err))
	}
	_, err = a.stdout.Write(signed)
	return err
}

// readNarinfo reads and parses a file, or standard input for "-".
func (a *app) readNarinfo(name string) ([]byte, *narinfo.Narinfo, error) {
	text, err := a.readAll(name, narinfo.MaxSize)
	if errors.Is(err, errTooLarge) {
		err = fmt.Errorf("%w: %w", narinfo.ErrMalformed, err)
	}
	if err != nil {
		return nil, nil, err
	}
	n, err := narinfo.Parse(text)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	return text, n, nil
}

// readKeyPair reads the private key and makes sure that it belongs to the
// public one.
func readKeyPair(public, private string) (*guixsig.PrivateKey, error) {
	text, err := readFile(private)
	if err != nil {
		return nil, err
	}
	key, err := guixsig.ParsePrivateKey(text)
	if err != nil {
		return nil, usageError(fmt.Errorf("%s: %w", private, err))
	}
	if text, err = readFile(public); err != nil {
		return nil, err
	}
	pub, err := guixsig.ParsePublicKey(text)
	if err != nil {
		return nil, usageError(fmt.Errorf("%s: %w", public, err))
	}
	if !pub.Equal(key.Public()) {
		return nil, usageError(fmt.Errorf("%s is not the public key of %s", public, private))
	}
	return key, nil
}

func (a *app) narinfoVerifyCommand() *cobra.Command {
	var acl string
	var nixKeys []string
	cmd := &cobra.Command{
		Use:   "verify [--acl FILE|--nix-trusted-key KEY] NARINFO|-",
		Short: "Say who signed a narinfo, or why it is not to be trusted",
		Long: `Verify the signature of a narinfo against an access control list. The exit
status is 0 only if the signature is valid and its key authorized.

Without --acl the list is $ERSATZ_ACL, else ` + defaultACL + `.
With --nix-trusted-key, the signatures of Nix are verified instead.`,
		Example: `  ersatz narinfo verify item.narinfo
  ersatz narinfo verify --nix-trusted-key "$(cat nix-key.pub)" item.narinfo
  curl -s https://ci.guix.gnu.org/HASH.narinfo | ersatz narinfo verify --acl /etc/guix/acl -`,
		Args: cobra.ExactArgs(1),
		RunE: a.run(func(_ *cobra.Command, args []string) error {
			if len(nixKeys) > 0 {
				return a.narinfoVerifyNix(nixKeys, args[0])
			}
			return a.narinfoVerify(a.aclPath(acl), args[0])
		}),
	}
	cmd.Flags().StringVar(&acl, "acl", "", "`FILE` with the authorized keys")
	cmd.Flags().StringArrayVar(&nixKeys, "nix-trusted-key", nil, "`KEY` of Nix that is authorized, NAME:BASE64 (repeatable)")
	cmd.MarkFlagsMutuallyExclusive("acl", "nix-trusted-key")
	markFilename(cmd, "acl")
	return cmd
}

func (a *app) narinfoVerify(aclPath, name string) error {
	acl, _, err := readACL(aclPath)
	if errors.Is(err, fs.ErrNotExist) {
		return noACL(err)
	}
	if err != nil {
		return err
	}
	_, n, err := a.readNarinfo(name)
	if err != nil {
		return err
	}
	signed, err := n.VerifyGuix(acl)
	if err != nil {
		return fmt.Errorf("%s: %w", name, &refusal{n, err})
	}
	_, err = fmt.Fprintf(a.stdout, "%s: %s: signed by %s, key %s, which is authorized\n", name, signed.StorePath, printable(signed.Host), signed.Key)
	return err
}

func (a *app) narinfoVerifyNix(texts []string, name string) error {
	var keys []nixsig.PublicKey
	for _, text := range texts {
		key, err := nixsig.ParsePublicKey(strings.TrimSpace(text))
		if err != nil {
			return usageError(fmt.Errorf("--nix-trusted-key: %w", err))
		}
		keys = append(keys, key)
	}
	_, n, err := a.readNarinfo(name)
	if err != nil {
		return err
	}
	signed, err := n.VerifyNix(keys)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	_, err = fmt.Fprintf(a.stdout, "%s: %s: signed by %s, which is authorized\n", name, signed.StorePath, signed.NixKey)
	return err
}

// printable quotes what would do more to a terminal than be shown: the name of
// the host is not signed, and anybody can write what they like there.
func printable(s string) string {
	if q := strconv.Quote(s); q != `"`+s+`"` {
		return q
	}
	return s
}

// refusal says in an operator's words why a narinfo is not to be trusted.
type refusal struct {
	n   *narinfo.Narinfo
	err error
}

func (r *refusal) Error() string {
	sig, host, err := r.n.ParsedSignature()
	if err != nil {
		return r.err.Error()
	}
	by := "signature by " + printable(host)
	switch {
	case errors.Is(r.err, narinfo.ErrUnauthorized):
		return fmt.Sprintf("%s: key not in ACL: %s", by, sig.Key())
	case errors.Is(r.err, narinfo.ErrChanged):
		return by + ": the narinfo was changed after it was signed"
	case errors.Is(r.err, narinfo.ErrBadSignature):
		return fmt.Sprintf("%s: not made with the key that it names, %s", by, sig.Key())
	}
	return r.err.Error()
}

func (r *refusal) Unwrap() error { return r.err }

// markRequired makes flags required.
func markRequired(cmd *cobra.Command, flags ...string) {
	for _, f := range flags {
		if err := cmd.MarkFlagRequired(f); err != nil {
			panic(err) // our own misspelling
		}
	}
}
