package main

// task is something that happens at a moment of simulated time.
type task struct {
	at  uint64 // microseconds
	seq uint64 // order of scheduling: settles ties, so that runs repeat
	do  func()
}

// queue is a binary heap of tasks, the earliest first.
type queue struct {
	heap []task
	seq  uint64
}

func (q *queue) less(i, j int) bool {
	a, b := &q.heap[i], &q.heap[j]
	return a.at < b.at || a.at == b.at && a.seq < b.seq
}

func (q *queue) push(at uint64, do func()) {
	q.seq++
	q.heap = append(q.heap, task{at, q.seq, do})
	for i := len(q.heap) - 1; i > 0; {
		up := (i - 1) / 2
		if !q.less(i, up) {
			break
		}
		q.heap[i], q.heap[up] = q.heap[up], q.heap[i]
		i = up
	}
}

func (q *queue) pop() (task, bool) {
	if len(q.heap) == 0 {
		return task{}, false
	}
	top, last := q.heap[0], len(q.heap)-1
	q.heap[0] = q.heap[last]
	q.heap[last] = task{}
	q.heap = q.heap[:last]
	for i := 0; ; {
		small := i
		for _, c := range [2]int{2*i + 1, 2*i + 2} {
			if c < last && q.less(c, small) {
				small = c
			}
		}
		if small == i {
			return top, true
		}
		q.heap[i], q.heap[small] = q.heap[small], q.heap[i]
		i = small
	}
}
