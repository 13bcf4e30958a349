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

// judgeKey says if a server signs with a key that the ACL does not have.
func (e *examination) judgeKey(ctx context.Context, server, _ string) *Finding {
	key, ok := e.unauthorized(ctx, server)
	if !ok {
		return nil
	}
	return &Finding{"server", Bad, fmt.Sprintf("%s signs with %v, which %s does not authorize", shown(server), key, e.o.ACL),
		fmt.Sprintf("compare that with what the server's operator says; if it is the same:\ncurl -fsS %s/signing-key.pub | sudo ersatz authorize", strings.TrimSuffix(shown(server), "/"))}
}

// unauthorized returns the key that a server says it signs with, if the ACL can
// be read and does not have that key. Servers that do not say, as caches of
// others, are judged by what they serve, which is not for here.
func (e *examination) unauthorized(ctx context.Context, server string) (guixsig.PublicKey, bool) {
	acl, err := e.acl()
	if err != nil {
		return guixsig.PublicKey{}, false // checkACL says so
	}
	text, err := e.get(ctx, server, "signing-key.pub")
	if err != nil {
		return guixsig.PublicKey{}, false
	}
	key, err := guixsig.ParsePublicKey(text)
	return key, err == nil && !acl.Authorizes(key)
}

// get returns what a server has under a name, at most maxAnswer bytes of it.
func (e *examination) get(ctx context.Context, server, name string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(server, "/")+"/"+name, nil)
	if err != nil {
		return nil, err
	}
	resp, err := e.o.Client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", name, resp.Status)
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
