// SPDX-License-Identifier: Apache-2.0

package callsd

import (
	"context"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	callsdv1 "github.com/callsd/callsd/clients/go/callsd/v1"
)

// Position is a point in a database's history, for a later watch to go on from.
type Position struct {
	DatabaseID string `json:"databaseId"`
	Revision   int64  `json:"revision"`
}

// Event is a [JobChanged], [JobDeleted], [Bookmark] or [Interrupted].
type Event interface{ isEvent() }

// JobChanged: a job is new, or is not what it was.
type JobChanged struct {
	// Job is the whole job as it is now.
	Job      *callsdv1.Job
	Revision int64
}

// JobDeleted: a job is no longer there.
type JobDeleted struct {
	Name     string
	Revision int64
}

// Bookmark: all changes up to Position have been told. The first one ends the initial state; an
// idle watch has one every 10 s.
type Bookmark struct{ Position Position }

// Interrupted: the connection broke. Nothing is lost: the watch goes on by itself.
type Interrupted struct {
	Err error
	// RetryIn is when the next try is made.
	RetryIn time.Duration
}

func (JobChanged) isEvent()  {}
func (JobDeleted) isEvent()  {}
func (Bookmark) isEvent()    {}
func (Interrupted) isEvent() {}

// Watch calls fn with each matching job as it is now, and then with each change: in order, without
// gap or repetition, over lost connections and restarts of the daemon. It ends with the context, or
// with an error of fn, which it returns. While fn is busy nothing is read, and the daemon drops a
// watch that is not read for 30 s, which then goes on where it was.
//
// The filter says which jobs (nil: all); its states must be empty. From a position of an earlier
// watch (nil: from the beginning) only what came after it is told; when the daemon no longer has
// it, the error is an [*OutOfRangeError]: begin again without.
func (j *Jobs) Watch(
	ctx context.Context, filter *callsdv1.JobFilter, from *Position, fn func(Event) error,
) error {
	watch := &jobWatch{
		backoff:  j.client.backoff(),
		filter:   filter,
		fn:       fn,
		knowsAll: from == nil,
		seen:     map[string]int64{},
	}
	if from != nil {
		position := *from
		watch.position, watch.databaseID = &position, position.DatabaseID
	}
	return follow(ctx, j.watchStub().WatchJobs, watch)
}

// jobWatch turns the answers of one or more streams into one sequence of events.
//
// It resumes from the last revision it has seen in full. Where the daemon no longer has that
// revision, or has another database, it takes a fresh snapshot and tells the difference to what was
// told before: only what has changed, and a deletion for each job that has gone. A watch that began
// at a position cannot know which jobs have gone, so it fails instead.
type jobWatch struct {
	*backoff
	filter     *callsdv1.JobFilter
	fn         func(Event) error
	position   *Position
	knowsAll   bool
	databaseID string
	// seen is the revision of each job as it was told last. Grows with the jobs that match.
	seen map[string]int64
	// snapshot has the jobs of the one being received; nil while changes are received.
	snapshot map[string]bool
}

func (w *jobWatch) request() *callsdv1.WatchJobsRequest {
	if w.position == nil {
		w.snapshot = map[string]bool{}
		return &callsdv1.WatchJobsRequest{Filter: w.filter}
	}
	w.snapshot = nil
	return &callsdv1.WatchJobsRequest{
		Filter:         w.filter,
		ResumeRevision: proto.Int64(w.position.Revision),
		DatabaseId:     w.position.DatabaseID,
	}
}

func (w *jobWatch) receive(response *callsdv1.WatchJobsResponse) error {
	if response.GetDatabaseId() != w.databaseID {
		// Revisions of another database say nothing about what was told of this one.
		for name := range w.seen {
			w.seen[name] = -1
		}
		w.databaseID = response.GetDatabaseId()
	}
	for _, event := range response.GetEvents() {
		if err := w.tell(event); err != nil {
			return err
		}
	}
	if w.snapshot != nil && response.GetInitialStateSent() {
		for _, name := range slices.Sorted(maps.Keys(w.seen)) {
			if w.snapshot[name] {
				continue
			}
			if err := w.deleted(name, response.GetRevision()); err != nil {
				return err
			}
		}
		w.snapshot = nil
	}
	if w.snapshot != nil {
		return nil // half a snapshot is not a point to resume from
	}
	w.position = &Position{DatabaseID: w.databaseID, Revision: response.GetRevision()}
	return w.fn(Bookmark{Position: *w.position})
}

func (w *jobWatch) tell(event *callsdv1.JobEvent) error {
	switch what := event.GetEvent().(type) {
	case *callsdv1.JobEvent_JobChanged:
		return w.changed(what.JobChanged, event.GetRevision())
	case *callsdv1.JobEvent_JobDeleted:
		return w.deleted(what.JobDeleted, event.GetRevision())
	}
	return nil // an event of a kind newer than this client
}

func (w *jobWatch) changed(job *callsdv1.Job, revision int64) error {
	name := job.GetName()
	if w.snapshot != nil {
		w.snapshot[name] = true
	}
	if last, wasSeen := w.seen[name]; wasSeen && last >= job.GetRevision() {
		return nil
	}
	w.seen[name] = job.GetRevision()
	return w.fn(JobChanged{Job: job, Revision: revision})
}

func (w *jobWatch) deleted(name string, revision int64) error {
	_, wasSeen := w.seen[name]
	delete(w.seen, name)
	delete(w.snapshot, name)
	// The daemon cannot tell whether a job that is gone matched the filter; we can.
	if wasSeen || !w.knowsAll {
		return w.fn(JobDeleted{Name: name, Revision: revision})
	}
	return nil
}

// failed tells of the interruption; a lost position is given up and all jobs are read again.
func (w *jobWatch) failed(err error) (time.Duration, error) {
	if e := inside(err); e != nil && w.knowsAll && w.position != nil {
		switch e.Reason {
		case "REVISION_COMPACTED", "REVISION_UNKNOWN":
			w.position = nil
			return 0, nil
		}
	}
	delay, last := w.backoff.failed(err)
	if last != nil {
		return 0, last
	}
	return delay, w.fn(Interrupted{Err: err, RetryIn: delay})
}
