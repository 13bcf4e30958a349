package doctor

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"ersatz/guixsig"
)

// maxAnswer bounds what is read of a server's answer, in bytes.
const maxAnswer = 64 << 10

// unauthorized returns the key that a server says it signs with, if the ACL can
// be read and does not have that key. Servers that do not say, as caches of
// others, are judged by what they serve, which is not for here.
func (e *examination) unauthorized(ctx context.Context, server string) (guixsig.PublicKey, bool) {
	acl, err := e.acl()
	if err != nil {
		return guixsig.PublicKey{}, false // checkACL says so
	}
	text, err := e.serverKey(ctx, server)
	if err != nil {
		return guixsig.PublicKey{}, false
	}
	key, err := guixsig.ParsePublicKey(text)
	return key, err == nil && !acl.Authorizes(key)
}

// serverKey returns what a server has as signing-key.pub, where guix publish
// has its public key.
func (e *examination) serverKey(ctx context.Context, server string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(server, "/")+"/signing-key.pub", nil)
	if err != nil {
		return nil, err
	}
	resp, err := e.o.Client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("signing-key.pub: %s", resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
}

// acl reads the access control list.
func (e *examination) acl() (guixsig.ACL, error) {
	text, err := os.ReadFile(e.path(e.o.ACL))
	if err != nil {
		return guixsig.ACL{}, err
	}
	return guixsig.ParseACL(text)
}
