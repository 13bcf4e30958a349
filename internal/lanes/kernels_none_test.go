//go:build !amd64 || purego

package lanes

// moreSHA256 returns nothing: crypto/sha256 is the only way.
func moreSHA256() []sha256Kind { return nil }
