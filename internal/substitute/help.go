package substitute

// Usage is the command line of ersatz-substitute, and Help what its --help
// prints, of which its manual page is made.
const (
	Usage = "Usage: ersatz-substitute --query|--substitute|--check\n"
	Help  = Usage + `
Answer guix-daemon, which asks what servers have (--query) and has it installed
(--substitute): requests come on standard input, replies go to file descriptor
4, progress to standard error. The daemon names the servers in _NIX_OPTIONS.
--check loads the configuration, and says nothing if it is good.

It is not for people: guix-daemon starts packaging/ersatz-guix, its variable
GUIX, which starts this.

Settings are in /etc/ersatz/config, or in the environment: ERSATZ_ACL,
ERSATZ_STATE, ERSATZ_IPFS, ERSATZ_NODE, ERSATZ_VOTES, ERSATZ_LOG. None is needed.

Exit status: 0 done, 1 failed, 2 wrong usage, configuration or request.
`
)
