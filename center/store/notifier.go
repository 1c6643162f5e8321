package store

import "sync"

// notifier wakes any number of waiters at once.
type notifier struct {
	mu *sync.Mutex
	ch *chan struct{}
}

func newNotifier() notifier {
	ch := make(chan struct{})
	return notifier{mu: &sync.Mutex{}, ch: &ch}
}

func (n notifier) wait() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return *n.ch
}

func (n notifier) notify() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(*n.ch)
	*n.ch = make(chan struct{})
}
