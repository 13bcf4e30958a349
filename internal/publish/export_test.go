package publish

// Remembered returns how many narinfos are in memory, and what they take, in
// bytes.
func (s *Server) Remembered() (count, size int) {
	s.memory.mu.RLock()
	defer s.memory.mu.RUnlock()
	for _, b := range s.memory.entries {
		size += b.size()
	}
	if size != s.memory.size {
		panic("the memory does not know its size")
	}
	return len(s.memory.entries), size
}
