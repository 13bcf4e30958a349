package doctor

// DaemonServers returns the substitute servers that the running guix-daemon of
// the machine below the folder root asks, in its order; none if no daemon runs.
func DaemonServers(root string) []string {
	d := (&examination{o: Options{Root: root}}).findDaemon()
	if d.pid != 0 && len(d.servers) == 0 {
		return defaultServers()
	}
	return d.servers
}

// DefaultServers returns the servers that a guix-daemon asks that was told of
// none.
func DefaultServers() []string { return defaultServers() }
