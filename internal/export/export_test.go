package export

import "time"

// SetLease changes for how long a worker takes a batch, and how often it
// extends that.
func (w *Worker) SetLease(lease, beat time.Duration) { w.lease, w.beat = lease, beat }
