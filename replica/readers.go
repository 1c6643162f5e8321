package replica

import "sync"

// readers counts the requests that are reading each image.
type readers struct {
	mu sync.Mutex
	of map[string]int
}

// begin counts one more reader of an image until the function it returns is called.
func (r *readers) begin(imageID string) (end func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of == nil {
		r.of = map[string]int{}
	}
	r.of[imageID]++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.of[imageID]--; r.of[imageID] == 0 {
			delete(r.of, imageID)
		}
	}
}

// Reading reports whether an image is being exported or verified: such an image is in use, also when the ticket that admitted
// its reader has expired since.
func (h *Host) Reading(imageID string) bool {
	h.readers.mu.Lock()
	defer h.readers.mu.Unlock()
	return h.readers.of[imageID] > 0
}
