package journal

// Waiting returns how many changes the committer has not seen yet.
func Waiting(j *Journal) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.queue)
}
