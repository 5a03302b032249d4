// SPDX-License-Identifier: Apache-2.0

package callsd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	callsdv1 "github.com/callsd/callsd/clients/go/callsd/v1"
)

// Jobs are pieces of work. Where a method takes a job's name, its bare identifier will do.
type Jobs struct{ client *Client }

func (j *Jobs) stub() callsdv1.JobServiceClient { return callsdv1.NewJobServiceClient(j.client.conn) }

func (j *Jobs) watchStub() callsdv1.JobServiceClient {
	return callsdv1.NewJobServiceClient(j.client.watchConn)
}

// Create asks for a job. The answer has the job and what admission said to it; once it is there,
// the job is finished or its failure reported, whatever restarts in between.
//
// A request without a request id is given one, so that a lost answer never makes two jobs. Give
// your own to ask for the same job again after a failure whose outcome you do not know.
func (j *Jobs) Create(
	ctx context.Context, request *callsdv1.CreateJobRequest,
) (*callsdv1.CreateJobResponse, error) {
	if request.GetRequestId() == "" {
		request = proto.CloneOf(request)
		request.RequestId = newUUID()
	}
	return j.stub().CreateJob(ctx, request)
}

// Get returns one job as it is now.
func (j *Jobs) Get(ctx context.Context, job string) (*callsdv1.Job, error) {
	answer, err := j.stub().GetJob(ctx, &callsdv1.GetJobRequest{Name: jobName(job)})
	return answer.GetJob(), err
}

// List yields all jobs that match, newest first; pages are fetched as they are needed. An error is
// the last that it yields. The request's page token is where it begins.
func (j *Jobs) List(
	ctx context.Context, request *callsdv1.ListJobsRequest,
) iter.Seq2[*callsdv1.Job, error] {
	return func(yield func(*callsdv1.Job, error) bool) {
		next := &callsdv1.ListJobsRequest{}
		if request != nil {
			next = proto.CloneOf(request)
		}
		for {
			page, err := j.stub().ListJobs(ctx, next)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, job := range page.GetJobs() {
				if !yield(job, nil) {
					return
				}
			}
			if next.PageToken = page.GetNextPageToken(); next.PageToken == "" {
				return
			}
		}
	}
}

// Stop ends a job; asking twice is harmless. The answer may still be STOPPING, see Wait.
func (j *Jobs) Stop(ctx context.Context, job string) (*callsdv1.Job, error) {
	answer, err := j.stub().StopJob(ctx, &callsdv1.StopJobRequest{Name: jobName(job)})
	return answer.GetJob(), err
}

// Delete removes a finished job with its log and artifacts.
func (j *Jobs) Delete(ctx context.Context, job string) error {
	_, err := j.stub().DeleteJob(ctx, &callsdv1.DeleteJobRequest{Name: jobName(job)})
	return err
}

// Publish delivers what a finished job has made, now, with a new token if it is not empty.
func (j *Jobs) Publish(ctx context.Context, job, token string) (*callsdv1.Job, error) {
	request := &callsdv1.PublishJobRequest{Name: jobName(job), Token: token}
	answer, err := j.stub().PublishJob(ctx, request)
	return answer.GetJob(), err
}

// IsFinal tells whether a job in this state has ended.
func IsFinal(state callsdv1.JobState) bool {
	switch state {
	case callsdv1.JobState_JOB_STATE_SUCCEEDED,
		callsdv1.JobState_JOB_STATE_FAILED,
		callsdv1.JobState_JOB_STATE_CANCELLED:
		return true
	}
	return false
}

var errEnded = errors.New("the job has ended")

// Wait returns a job in its final state, whichever that is. It is a [*NotFoundError] if there is no
// such job, or it was deleted meanwhile.
func (j *Jobs) Wait(ctx context.Context, job string) (*callsdv1.Job, error) {
	// Not the watch alone: this knows why there is no such job.
	ended, err := j.Get(ctx, job)
	if err != nil || IsFinal(ended.GetState()) {
		return ended, err
	}
	name, isThere := ended.GetName(), false
	filter := &callsdv1.JobFilter{Names: []string{name}}
	err = j.Watch(ctx, filter, nil, func(event Event) error {
		switch event := event.(type) {
		case JobChanged:
			isThere = true
			if IsFinal(event.Job.GetState()) {
				ended = event.Job
				return errEnded
			}
		case JobDeleted:
			return deletedMeanwhile(name)
		case Bookmark:
			if !isThere {
				return deletedMeanwhile(name)
			}
		}
		return nil
	})
	if errors.Is(err, errEnded) {
		return ended, nil
	}
	return nil, err
}

func deletedMeanwhile(name string) error {
	return typed(&Error{
		Code:     codes.NotFound,
		Reason:   "JOB_NOT_FOUND",
		Message:  name + " was deleted while it was waited for",
		Metadata: map[string]string{"name": name},
	})
}

// ReadLog writes a job's log to w; with Follow it goes on until the job has ended.
func (j *Jobs) ReadLog(ctx context.Context, request *callsdv1.ReadLogRequest, w io.Writer) error {
	reading := &logReading{backoff: j.client.backoff(), next: proto.CloneOf(request), to: w}
	reading.next.Name = jobName(request.GetName())
	return follow(ctx, j.watchStub().ReadLog, reading)
}

type logReading struct {
	*backoff
	next *callsdv1.ReadLogRequest
	to   io.Writer
}

func (r *logReading) request() *callsdv1.ReadLogRequest { return r.next }

func (r *logReading) receive(response *callsdv1.ReadLogResponse) error {
	// Followed as the daemon has it: a log that was cut short begins again at zero.
	r.next.Offset = response.GetOffset() + int64(len(response.GetData()))
	_, err := r.to.Write(response.GetData())
	return err
}

func (r *logReading) isComplete() bool { return true }

// jobName is a job's full name, from that or from its bare identifier.
func jobName(job string) string {
	if strings.Contains(job, "/") {
		return job
	}
	return "jobs/" + job
}

// newUUID is a random UUID. Source: RFC 9562, section 5.4.
func newUUID() string {
	var id [16]byte
	rand.Read(id[:]) // never fails
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}
