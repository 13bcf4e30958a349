package doctor

// DaemonServers returns the substitute servers that the running guix-daemon
// asks, in its order; none if no daemon runs.
func DaemonServers() []string {
	d := (&examination{o: Options{}.defaults()}).findDaemon()
	if d.pid != 0 && len(d.servers) == 0 {
		return defaultServers()
	}
	return d.servers
}

// DefaultServers returns the servers that a guix-daemon asks that was told of
// none.
func DefaultServers() []string { return defaultServers() }
