package service

// byDeadline is a heap of calls, the one whose deadline comes first at the top.
type byDeadline []*call

func (h byDeadline) Len() int           { return len(h) }
func (h byDeadline) Less(i, j int) bool { return h[i].sending.deadline.Before(h[j].sending.deadline) }

func (h byDeadline) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i+1, j+1
}

func (h *byDeadline) Push(x any) {
	c := x.(*call)
	*h = append(*h, c)
	c.place = len(*h)
}

func (h *byDeadline) Pop() any {
	last := len(*h) - 1
	c := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	c.place = 0
	return c
}
