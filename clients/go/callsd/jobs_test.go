// SPDX-License-Identifier: Apache-2.0

package callsd

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	callsdv1 "github.com/callsd/callsd/clients/go/callsd/v1"
)

const database = "db-1"

type jobsOut = grpc.ServerStreamingServer[callsdv1.WatchJobsResponse]

// A request without an id gets one, keeps it over tries, and is left as it was given.
func TestRequestID(t *testing.T) {
	var ids []string
	client := serve(t, &script{
		create: func(_ context.Context, r *callsdv1.CreateJobRequest) (*callsdv1.CreateJobResponse, error) {
			ids = append(ids, r.GetRequestId())
			if len(ids) == 1 {
				return nil, status.Error(codes.Unavailable, "the answer is lost")
			}
			return &callsdv1.CreateJobResponse{Job: &callsdv1.Job{Name: "jobs/1"}}, nil
		},
	})
	request := &callsdv1.CreateJobRequest{}
	answer, err := client.Jobs().Create(limited(t), request)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, answer.GetJob().GetName(), "jobs/1")
	equal(t, request.GetRequestId(), "")
	equal(t, len(ids), 2)
	equal(t, ids[0], ids[1])
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(ids[0]) {
		t.Fatalf("%q is no UUID", ids[0])
	}
}

func changed(name string, revision int64) *callsdv1.JobEvent {
	job := &callsdv1.Job{Name: "jobs/" + name, Revision: revision}
	return &callsdv1.JobEvent{
		Revision: revision, Event: &callsdv1.JobEvent_JobChanged{JobChanged: job},
	}
}

func deleted(name string, revision int64) *callsdv1.JobEvent {
	return &callsdv1.JobEvent{
		Revision: revision, Event: &callsdv1.JobEvent_JobDeleted{JobDeleted: "jobs/" + name},
	}
}

func batch(revision int64, events ...*callsdv1.JobEvent) *callsdv1.WatchJobsResponse {
	return &callsdv1.WatchJobsResponse{
		Events: events, Revision: revision, InitialStateSent: revision > 0, DatabaseId: database,
	}
}

// told are the events of a watch, in short, until one ends with `last`.
func told(t *testing.T, client *Client, from *Position, last string) (string, error) {
	t.Helper()
	enough := errors.New("enough")
	var events []string
	err := client.Jobs().Watch(limited(t), nil, from, func(event Event) error {
		switch event := event.(type) {
		case JobChanged:
			events = append(events, fmt.Sprintf("%s@%d", event.Job.GetName()[5:], event.Revision))
		case JobDeleted:
			events = append(events, fmt.Sprintf("-%s", event.Name[5:]))
		case Bookmark:
			events = append(events, fmt.Sprintf("|%d", event.Position.Revision))
		case Interrupted:
			events = append(events, "!"+inside(event.Err).Reason)
		}
		if events[len(events)-1] == last {
			return enough
		}
		return nil
	})
	if errors.Is(err, enough) {
		err = nil
	}
	return strings.Join(events, " "), err
}

// watchScript plays one answer after the other, each for one call, and notes what was asked for.
type watchScript struct {
	asked []string
	calls []func(out jobsOut) error
}

func (w *watchScript) play(r *callsdv1.WatchJobsRequest, out jobsOut) error {
	at := len(w.asked)
	asked := "all"
	if r.ResumeRevision != nil {
		asked = fmt.Sprintf("%s/%d", r.GetDatabaseId(), r.GetResumeRevision())
	}
	w.asked = append(w.asked, asked)
	return w.calls[at](out)
}

func sending(end error, messages ...*callsdv1.WatchJobsResponse) func(jobsOut) error {
	return func(out jobsOut) error {
		for _, one := range messages {
			if err := out.Send(one); err != nil {
				return err
			}
		}
		return end
	}
}

var away = status.Error(codes.Unavailable, "restarting")

// A watch goes on behind the last batch that it has seen in full, and tells nothing twice.
func TestWatchResumes(t *testing.T) {
	w := &watchScript{calls: []func(jobsOut) error{
		sending(away, batch(0, changed("a", 1)), batch(2, changed("b", 2))),
		sending(refusal(codes.Aborted, "SLOW_CONSUMER", nil), batch(3, changed("a", 3))),
		sending(refusal(codes.Unavailable, "DRAINING", nil)),
		sending(nil, batch(5, changed("a", 3), changed("b", 4), deleted("a", 5))),
		sending(nil, batch(6)),
	}}
	client := serve(t, &script{watch: w.play})
	events, err := told(t, client, nil, "|6")
	equal(t, err, nil)
	equal(t, events, "a@1 b@2 |2 ! a@3 |3 !SLOW_CONSUMER !DRAINING b@4 -a |5 ! |6")
	equal(t, strings.Join(w.asked, " "), "all db-1/2 db-1/3 db-1/3 db-1/5")
}

// Half a snapshot is no position: it is read again, and what was told is not told again.
func TestWatchSnapshotCut(t *testing.T) {
	w := &watchScript{calls: []func(jobsOut) error{
		sending(away, batch(0, changed("a", 1))),
		sending(nil, batch(0, changed("a", 1)), batch(2, changed("b", 2))),
	}}
	events, err := told(t, serve(t, &script{watch: w.play}), nil, "|2")
	equal(t, err, nil)
	equal(t, events, "a@1 ! b@2 |2")
	equal(t, strings.Join(w.asked, " "), "all all")
}

// Where the daemon has forgotten the position, the difference to a new snapshot is told.
func TestWatchCompacted(t *testing.T) {
	w := &watchScript{calls: []func(jobsOut) error{
		sending(away, batch(3, changed("a", 1), changed("b", 2), changed("c", 3))),
		sending(refusal(codes.OutOfRange, "REVISION_COMPACTED", nil)),
		sending(nil, batch(0, changed("a", 1)), batch(9, changed("c", 8))),
	}}
	events, err := told(t, serve(t, &script{watch: w.play}), nil, "|9")
	equal(t, err, nil)
	equal(t, events, "a@1 b@2 c@3 |3 ! c@8 -b |9")
}

// Revisions of another database say nothing about those of the one before.
func TestWatchOtherDatabase(t *testing.T) {
	other := batch(1, changed("a", 1))
	other.DatabaseId = "db-2"
	w := &watchScript{calls: []func(jobsOut) error{
		sending(away, batch(7, changed("a", 7))),
		sending(refusal(codes.OutOfRange, "REVISION_UNKNOWN", nil)),
		sending(nil, other),
	}}
	events, err := told(t, serve(t, &script{watch: w.play}), nil, "|1")
	equal(t, err, nil)
	equal(t, events, "a@7 |7 ! a@1 |1")
}

// A watch from a position cannot know what has gone: a position that is lost is an error.
func TestWatchPositionLost(t *testing.T) {
	w := &watchScript{calls: []func(jobsOut) error{
		sending(away, batch(5, deleted("x", 5))),
		sending(refusal(codes.OutOfRange, "REVISION_COMPACTED", nil)),
	}}
	from := &Position{DatabaseID: database, Revision: 4}
	events, err := told(t, serve(t, &script{watch: w.play}), from, "never")
	as[*OutOfRangeError](t, err)
	equal(t, events, "-x |5 !")
	equal(t, strings.Join(w.asked, " "), "db-1/4 db-1/5")
}

// A stream that never worked fails at once, and one whose request is wrong does, too.
func TestWatchFails(t *testing.T) {
	for _, err := range []error{away, refusal(codes.PermissionDenied, "SCOPE_MISSING", nil)} {
		w := &watchScript{calls: []func(jobsOut) error{sending(err)}}
		_, found := told(t, serve(t, &script{watch: w.play}), nil, "never")
		equal(t, inside(found).Code, status.Code(err))
		equal(t, len(w.asked), 1)
	}
}

// A watch ends with its context, also between two tries.
func TestWatchCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(limited(t))
	w := &watchScript{calls: []func(jobsOut) error{
		sending(refusal(codes.Unavailable, "DRAINING", nil, retryAfter(testTimeout)), batch(1)),
	}}
	client := serve(t, &script{watch: w.play})
	err := client.Jobs().Watch(ctx, nil, nil, func(event Event) error {
		if _, isBroken := event.(Interrupted); isBroken {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

// Waiting for a job ends with its end, over a restart; a job that is deleted meanwhile is told so.
func TestWait(t *testing.T) {
	running := &callsdv1.Job{Name: "jobs/a", Revision: 1, State: callsdv1.JobState_JOB_STATE_RUNNING}
	end := changed("a", 2)
	end.GetJobChanged().State = callsdv1.JobState_JOB_STATE_SUCCEEDED
	s := &script{
		get: func(context.Context, *callsdv1.GetJobRequest) (*callsdv1.GetJobResponse, error) {
			return &callsdv1.GetJobResponse{Job: running}, nil
		},
	}
	client := serve(t, s)
	s.watch = (&watchScript{calls: []func(jobsOut) error{
		sending(away, batch(1, changed("a", 1))), sending(nil, batch(2, end)),
	}}).play
	job, err := client.Jobs().Wait(limited(t), "a")
	equal(t, err, nil)
	equal(t, job.GetState(), callsdv1.JobState_JOB_STATE_SUCCEEDED)

	for _, gone := range []*callsdv1.WatchJobsResponse{batch(3), batch(3, changed("a", 1), deleted("a", 3))} {
		s.watch = (&watchScript{calls: []func(jobsOut) error{sending(nil, gone)}}).play
		_, err = client.Jobs().Wait(limited(t), "a")
		equal(t, as[*NotFoundError](t, err).Reason, "JOB_NOT_FOUND")
	}
}
