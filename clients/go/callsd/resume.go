// SPDX-License-Identifier: Apache-2.0

package callsd

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// A restart takes about a second: the first tries come quickly, later ones spare the daemon.
const (
	firstDelay = 100 * time.Millisecond
	maxDelay   = 5 * time.Second
)

// backoff decides after each failure whether to come back, and when. A stream to a daemon that never
// answered fails at once: its address is probably wrong. Any other is resumed until the patience has
// gone by without an answer.
type backoff struct {
	patience   time.Duration
	failures   int
	answeredAt time.Time
	hasBegun   bool
}

// answered takes note that the daemon answered.
func (b *backoff) answered() {
	b.failures = 0
	b.answeredAt = time.Now()
	b.hasBegun = true
}

// failed returns how long to wait before the next try, or the error itself when another try is of
// no use or the patience is at its end.
func (b *backoff) failed(err error) (time.Duration, error) {
	return b.retry(err, false)
}

// retry is failed; isPassing: another try may help although the error does not look like it.
func (b *backoff) retry(err error, isPassing bool) (time.Duration, error) {
	var token *SettingsError
	e := inside(err)
	switch {
	case b.hasBegun && errors.As(err, &token) && errors.Is(err, fs.ErrNotExist):
		// The owner's token may go with the directory of a daemon that is stopped, and come back
		// with the next one.
		e = &Error{}
	case e == nil || !isPassing && !b.isOver(e):
		return 0, err
	}
	if time.Since(b.answeredAt) > b.patience { // never answered is long ago
		return 0, err
	}
	limit := min(firstDelay<<min(b.failures, 16), maxDelay)
	b.failures++
	// Half fixed, half random: clients cut off together do not come back together.
	return max(limit/2+rand.N(limit/2), e.RetryAfter), nil
}

// isOver tells the errors that say "this stream is over" from those that say "this request is
// wrong".
func (b *backoff) isOver(e *Error) bool {
	switch e.Reason {
	case "SLOW_CONSUMER", "STREAMS_EXHAUSTED":
		return b.hasBegun
	}
	switch e.Code {
	case codes.Unavailable, codes.Canceled:
		// A daemon that stops abruptly cancels its streams; a cancellation of our own is seen by
		// the context.
		return true
	case codes.Internal, codes.Unknown:
		// A connection that is torn down in the middle of a frame, or behind a proxy that was cut
		// off from the daemon; a bug of the daemon has a reason.
		return e.Reason == ""
	}
	return false
}

// resumable is one logical stream over as many requests as it takes.
type resumable[Request, Response any] interface {
	// request is what to ask for now, given all that was received.
	request() *Request
	// receive works off a message; its error ends the stream.
	receive(*Response) error
	// failed returns how long to wait before the next try, or the error that ends the stream.
	failed(error) (time.Duration, error)
	// answered takes note that the daemon answered.
	answered()
	// isComplete tells whether the stream is at its end when the daemon ends it without error.
	isComplete() bool
}

// isComplete: most streams have no end of their own.
func (b *backoff) isComplete() bool { return false }

type opener[Request, Response any] func(
	context.Context, *Request, ...grpc.CallOption,
) (grpc.ServerStreamingClient[Response], error)

// follow drives a stream to its end, over any number of connections.
func follow[Request, Response any](
	ctx context.Context, open opener[Request, Response], stream resumable[Request, Response],
) error {
	for {
		broken, err := followOnce(ctx, open, stream)
		if broken == nil {
			return err
		}
		if ctx.Err() != nil {
			return broken
		}
		delay, err := stream.failed(broken)
		if err != nil {
			return err
		}
		if err := sleep(ctx, delay, broken); err != nil {
			return err
		}
	}
}

// followOnce makes one request. What broke it is for the stream to judge; err is the end of all.
func followOnce[Request, Response any](
	ctx context.Context, open opener[Request, Response], stream resumable[Request, Response],
) (broken, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	call, err := open(ctx, stream.request())
	if err != nil {
		return err, nil
	}
	for {
		message, err := call.Recv()
		switch {
		case errors.Is(err, io.EOF) && stream.isComplete():
			return nil, nil
		case errors.Is(err, io.EOF):
			return endedEarly(), nil
		case err != nil:
			return err, nil
		}
		stream.answered()
		if err := stream.receive(message); err != nil {
			return nil, err
		}
	}
}

// sleep waits between two tries; its error is that of a context that ended meanwhile.
func sleep(ctx context.Context, delay time.Duration, last error) error {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ofContext(ctx, "given up while the daemon was away: "+last.Error())
	}
}

func endedEarly() error {
	return typed(&Error{
		Code: codes.Unavailable, Message: "the daemon ended the stream before its end",
	})
}
