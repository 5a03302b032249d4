// SPDX-License-Identifier: Apache-2.0

package callsd

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	callsdv1 "github.com/callsd/callsd/clients/go/callsd/v1"
)

// Captions are the live sound of calls, and their words. A call is a job made with a CaptionsSpec;
// stop the job when the call is over.
type Captions struct{ client *Client }

// Watch calls fn with a call's captions and events as they come, to the end of its job: it returns
// nil then. Over lost connections and restarts of the daemon each final caption comes once, in
// order, and none is left out; interim ones just go on. A message with neither caption nor event
// tells the lag. What was said in a job that has ended is there, too.
//
// The watch ends early with the context, or with an error of fn, which it returns.
//
// In the request, ResumeSequence asks for the final captions behind that number, and for all of
// them with 0; without it the last 10 come first.
func (c *Captions) Watch(
	ctx context.Context, request *callsdv1.WatchCaptionsRequest,
	fn func(*callsdv1.WatchCaptionsResponse) error,
) error {
	watch := &captionWatch{
		backoff:    c.client.backoff(),
		job:        jobName(request.GetJob()),
		last:       request.ResumeSequence,
		finalsOnly: request.GetFinalsOnly(),
		fn:         fn,
	}
	stub := callsdv1.NewCaptionServiceClient(c.client.watchConn)
	return follow(ctx, stub.WatchCaptions, watch)
}

// captionWatch is one call's captions over any number of connections.
type captionWatch struct {
	*backoff
	job string
	// last is the number of the last final caption that was told, if there was one.
	last       *int64
	hasBegun   bool
	finalsOnly bool
	fn         func(*callsdv1.WatchCaptionsResponse) error
}

// request: after a beginning without a final caption, all are news.
func (w *captionWatch) request() *callsdv1.WatchCaptionsRequest {
	after := w.last
	if after == nil && w.hasBegun {
		after = proto.Int64(0)
	}
	return &callsdv1.WatchCaptionsRequest{
		Job: w.job, ResumeSequence: after, FinalsOnly: w.finalsOnly,
	}
}

func (w *captionWatch) receive(response *callsdv1.WatchCaptionsResponse) error {
	w.hasBegun = true
	if caption := response.GetCaption(); caption.GetIsFinal() {
		sequence := caption.GetSequence()
		if w.last != nil && sequence <= *w.last {
			return nil // told before
		}
		if w.last != nil && sequence > *w.last+1 {
			return mismatch("%s: the daemon sent caption %d where %d was due",
				w.job, sequence, *w.last+1)
		}
		w.last = proto.Int64(sequence)
	}
	return w.fn(response)
}

func (w *captionWatch) isComplete() bool { return true }

func (w *captionWatch) failed(err error) (time.Duration, error) {
	return w.retry(err, isEarly(err))
}

// isEarly tells whether the job is not open yet after a restart; one that is over gives no time to
// wait.
func isEarly(err error) bool {
	e := inside(err)
	return e != nil && e.Reason == "JOB_STATE_CONFLICT" && e.RetryAfter > 0
}
