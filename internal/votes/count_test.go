package votes

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"ersatz/guixsig"
	"ersatz/internal/upstream"
	"ersatz/narinfo"
	"ersatz/nixsig"
	"ersatz/storepath"
)

const base = "00000000000000000000000000000000-item"

// fields returns those of an item, changed.
func fields(t testing.TB, change func(*narinfo.Fields)) narinfo.Fields {
	t.Helper()
	p, err := storepath.Parse("/gnu/store/" + base)
	must(t, err)
	f := narinfo.Fields{StorePath: p, NarHash: [32]byte{1}, NarSize: 100, References: []string{base, strings.Replace(base, "0-", "1-", 1)}}
	if change != nil {
		change(&f)
	}
	return f
}

// text prints a narinfo with Guix's signature, or none, and a URL.
func text(t testing.TB, f narinfo.Fields, k *guixsig.PrivateKey) string {
	t.Helper()
	return bare(t, f.Body(), k) + "URL: nar/x\nCompression: none\n"
}

func bare(t testing.TB, body []byte, k *guixsig.PrivateKey) string {
	t.Helper()
	if k != nil {
		var err error
		body, err = narinfo.SignGuix(body, k, "test")
		must(t, err)
	}
	return string(body)
}

// answers makes what servers s0, s1, … say; "" is that they have none.
func answers(t testing.TB, texts ...string) []upstream.Answer {
	t.Helper()
	list := make([]upstream.Answer, len(texts))
	for i, text := range texts {
		sv, err := upstream.ParseServer(fmt.Sprintf("http://s%d", i))
		must(t, err)
		list[i] = upstream.Answer{Server: sv, Text: []byte(text)}
		if text == "" {
			list[i].Text, list[i].Err = nil, fs.ErrNotExist
		}
	}
	return list
}

// TestCount has three keys of Guix, of which two have to agree, and a fourth
// that is authorized and has no vote.
func TestCount(t *testing.T) {
	a, b, c, other := guixKey(t, 1), guixKey(t, 2), guixKey(t, 3), guixKey(t, 4)
	p := policy(t, 2, a.Public(), b.Public(), c.Public())
	acl := guixsig.ACL{}.Add(a.Public()).Add(b.Public()).Add(c.Public()).Add(other.Public())
	good := fields(t, nil)
	noSize := []byte(strings.Replace(string(good.Body()), "NarSize: 100\n", "", 1))
	changed := strings.Replace(text(t, good, b), "NarSize: 100", "NarSize: 101", 1)
	for name, x := range map[string]struct {
		texts []string
		want  int // index of the answer that Choose takes, -1 for none
	}{
		"two agree":           {[]string{text(t, good, a), text(t, good, b)}, 0},
		"all agree":           {[]string{text(t, good, a), text(t, good, b), text(t, good, c)}, 0},
		"one":                 {[]string{text(t, good, a)}, -1},
		"none":                {[]string{"", ""}, -1},
		"the same key twice":  {[]string{text(t, good, a), text(t, good, a) + "X: y\n"}, -1},
		"another key":         {[]string{text(t, good, a), text(t, good, other)}, -1},
		"another key agrees":  {[]string{text(t, good, other), text(t, good, a), text(t, good, b)}, 0},
		"unauthorized":        {[]string{text(t, good, a), text(t, good, guixKey(t, 9))}, -1},
		"unsigned":            {[]string{text(t, good, a), text(t, good, nil)}, -1},
		"changed":             {[]string{text(t, good, a), changed}, -1},
		"no URL":              {[]string{text(t, good, a), bare(t, good.Body(), b)}, 0},
		"no URL at all":       {[]string{bare(t, good.Body(), a), bare(t, good.Body(), b)}, 0},
		"no NarSize":          {[]string{text(t, good, a), bare(t, noSize, b)}, -1},
		"neither has NarSize": {[]string{bare(t, noSize, a), bare(t, noSize, b)}, -1},
		"NarSize below":       {[]string{text(t, good, a), bare(t, noSize, b) + "NarSize: 100\n"}, -1},
		"no narinfo":          {[]string{"<html>\n", text(t, good, a)}, -1},
		"NarHash": {[]string{text(t, good, a),
			text(t, fields(t, func(f *narinfo.Fields) { f.NarHash[31] = 1 }), b)}, -1},
		"NarSize": {[]string{text(t, good, a),
			text(t, fields(t, func(f *narinfo.Fields) { f.NarSize++ }), b)}, -1},
		"References": {[]string{text(t, good, a),
			text(t, fields(t, func(f *narinfo.Fields) { f.References = f.References[:1] }), b)}, -1},
		"StorePath": {[]string{text(t, good, a),
			text(t, fields(t, func(f *narinfo.Fields) { f.StorePath.Name = "other" }), b)}, -1},
		"order of References": {[]string{text(t, good, a),
			text(t, fields(t, func(f *narinfo.Fields) {
				f.References = []string{f.References[1], f.References[0], f.References[1]}
			}), b)}, 0},
		"Deriver and URN": {[]string{text(t, good, a), text(t, fields(t, func(f *narinfo.Fields) {
			f.Deriver, f.ERISFormat, f.ERIS = base+".drv", "application/x-nix-archive+zstd-19", "urn:eris:X"
		}), b)}, 0},
		"the second build": {[]string{text(t, fields(t, func(f *narinfo.Fields) { f.NarHash[0] = 2 }), a),
			text(t, good, b), text(t, good, c)}, 1},
		"a vote for both": {[]string{text(t, fields(t, func(f *narinfo.Fields) { f.NarHash[0] = 2 }), a),
			text(t, good, b), text(t, good, a)}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			given := answers(t, x.texts...)
			count := p.Count(given, acl, nil)
			judge := count.Judge(func(n *narinfo.Narinfo) (narinfo.Signed, error) { return n.VerifyGuix(acl) })
			choice := upstream.Choose(good.StorePath, given, judge)
			got := -1
			if len(choice.Builds) > 0 {
				for i := range given {
					if given[i].Server == choice.Builds[0].Narinfos[0].Server {
						got = i
					}
				}
			}
			if got != x.want {
				t.Errorf("answer %d, want %d; %v; %v", got, x.want, errors.Join(choice.Refused...), count.Missing())
			}
		})
	}
}

// TestBothBuilds: when two builds have the votes, the servers' order decides.
func TestBothBuilds(t *testing.T) {
	keys := []*guixsig.PrivateKey{guixKey(t, 1), guixKey(t, 2), guixKey(t, 3), guixKey(t, 4)}
	acl := guixsig.ACL{}
	var public []fmt.Stringer
	for _, k := range keys {
		acl, public = acl.Add(k.Public()), append(public, k.Public())
	}
	one, two := fields(t, nil), fields(t, func(f *narinfo.Fields) { f.NarHash[0] = 2 })
	given := answers(t, text(t, two, keys[0]), text(t, one, keys[1]), text(t, one, keys[2]), text(t, two, keys[3]))
	count := policy(t, 2, public...).Count(given, acl, nil)
	choice := upstream.Choose(one.StorePath, given, count.Judge(func(n *narinfo.Narinfo) (narinfo.Signed, error) { return n.VerifyGuix(acl) }))
	if len(choice.Builds) != 2 || choice.Builds[0].Signed.NarHash != two.NarHash {
		t.Errorf("%d builds, %v", len(choice.Builds), choice.Refused)
	}
}

// TestNix: each Sig is the vote of its key, under whichever name that key is
// trusted, and one text may have several.
func TestNix(t *testing.T) {
	a, b, d, c := nixKey(t, "a", 1), nixKey(t, "b", 2), nixKey(t, "d", 4), guixKey(t, 3)
	renamed := nixKey(t, "renamed", 1) // the bytes of a
	f := fields(t, nil)
	sig := func(keys ...nixsig.SecretKey) string {
		body := string(f.Body())
		for _, k := range keys {
			body += string(f.SignNix(k))
		}
		return body
	}
	p := policy(t, 2, a.Public(), b.Public(), c.Public())
	acl := guixsig.ACL{}.Add(c.Public())
	trusted := []nixsig.PublicKey{a.Public(), b.Public(), renamed.Public()}
	for name, x := range map[string]struct {
		texts []string
		nix   []nixsig.PublicKey
		want  bool
	}{
		"two servers":       {[]string{sig(a), sig(b)}, trusted, true},
		"one text":          {[]string{sig(a, b)}, trusted, true},
		"one key":           {[]string{sig(a, a)}, trusted, false},
		"two names":         {[]string{sig(a, renamed)}, trusted, false},
		"another name":      {[]string{sig(renamed), sig(b)}, trusted, true},
		"both kinds":        {[]string{text(t, f, c), sig(b)}, trusted, true},
		"both in one text":  {[]string{text(t, f, c) + string(f.SignNix(a))}, trusted, true},
		"one not trusted":   {[]string{sig(a, b)}, trusted[:1], false},
		"one outside the n": {[]string{sig(a, d)}, append(slices.Clone(trusted), d.Public()), false},
		"a size that is no": {[]string{strings.Replace(sig(a, b), "NarSize: 100\n", "", 1)}, trusted, false},
	} {
		count := p.Count(answers(t, x.texts...), acl, x.nix)
		_, err := count.Judge(func(n *narinfo.Narinfo) (narinfo.Signed, error) {
			if s, err := n.VerifyGuix(acl); err == nil {
				return s, nil
			}
			return n.VerifyNix(x.nix)
		})(parse(t, x.texts[0]))
		if (err == nil) != x.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func parse(t testing.TB, text string) *narinfo.Narinfo {
	t.Helper()
	n, err := narinfo.Parse([]byte(text))
	must(t, err)
	return n
}

// TestMessages: people learn who voted for what and who did not.
func TestMessages(t *testing.T) {
	a, b, c, d := guixKey(t, 1), guixKey(t, 2), guixKey(t, 3), guixKey(t, 4)
	p, err := Parse(fmt.Appendf(nil, "require 2 of\n%s ann\n%s bob\n%s cy\n%s dee\n", a.Public(), b.Public(), c.Public(), d.Public()))
	must(t, err)
	acl := guixsig.ACL{}.Add(a.Public()).Add(b.Public()).Add(d.Public())
	good := fields(t, nil)
	given := answers(t, text(t, good, a), text(t, fields(t, func(f *narinfo.Fields) { f.NarSize = 7 }), b), "", text(t, good, c))
	count := p.Count(given, acl, nil)
	judge := count.Judge(func(n *narinfo.Narinfo) (narinfo.Signed, error) { return n.VerifyGuix(acl) })
	_, err = judge(parse(t, string(given[1].Text)))
	if want := "too few votes: 1 of the 2 that are needed for NarHash " + narinfo.FormatHash(good.NarHash) +
		", NarSize 7, 2 References: bob"; !errors.Is(err, ErrTooFew) || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	if _, err = judge(parse(t, string(given[3].Text))); !errors.Is(err, narinfo.ErrUnauthorized) || errors.Is(err, ErrTooFew) {
		t.Errorf("not authorized: %v", err)
	}
	err = count.Missing()
	if want := "too few votes: 2 of 4 keys have to agree; no vote by dee; not authorized cy; no narinfo at http://s2"; !errors.Is(err, ErrTooFew) || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	// A key outside the n that nobody of them agrees with.
	acl = acl.Add(guixKey(t, 9).Public())
	alone := text(t, good, guixKey(t, 9))
	_, err = p.Count(answers(t, alone), acl, nil).Judge(func(n *narinfo.Narinfo) (narinfo.Signed, error) { return n.VerifyGuix(acl) })(parse(t, alone))
	if !errors.Is(err, ErrTooFew) || !strings.HasSuffix(err.Error(), ": nobody") {
		t.Errorf("nobody: %v", err)
	}
}
