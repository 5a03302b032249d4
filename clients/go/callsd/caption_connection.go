// SPDX-License-Identifier: Apache-2.0

package callsd

import (
	"context"
	"errors"
	"io"
	"sync"

	callsdv1 "github.com/callsd/callsd/clients/go/callsd/v1"
)

// A CaptionSender's connections: one goroutine that keeps one, and for each one that sends on it.

// run keeps a connection until the sender is to end, or cannot go on.
func (s *CaptionSender) run(ctx context.Context) {
	defer close(s.stopped)
	backoff := s.client.backoff()
	for {
		broken := s.converse(ctx, backoff)
		if s.disconnected() {
			return
		}
		delay, err := backoff.retry(broken, isEarly(broken))
		if err == nil {
			err = sleep(ctx, delay, broken)
		}
		if err != nil {
			s.fail(err)
			return
		}
	}
}

// disconnected takes note that there is no connection; it tells whether that was the last.
func (s *CaptionSender) disconnected() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.audio.cut()
	s.isResumed = false
	return s.isEnding || s.isClosed
}

func (s *CaptionSender) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.isClosed {
		s.err = err
	}
	s.notify()
}

// converse runs one stream, to its end, and returns what ended it.
func (s *CaptionSender) converse(ctx context.Context, backoff *backoff) error {
	var writing sync.WaitGroup
	defer writing.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	call, err := callsdv1.NewCaptionServiceClient(s.client.conn).StreamCaptions(ctx)
	if err != nil {
		return err
	}
	writing.Go(func() { s.write(ctx, call) })
	for {
		response, err := call.Recv()
		if errors.Is(err, io.EOF) {
			return endedEarly()
		}
		if err != nil {
			return err
		}
		backoff.answered()
		s.mu.Lock()
		err = s.audio.learn(response.GetAcks(), !s.isResumed)
		s.isResumed = true
		s.notify()
		s.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// write sends what there is to send; where the stream breaks, its reader is told.
func (s *CaptionSender) write(ctx context.Context, call callsdv1.CaptionService_StreamCaptionsClient) {
	next := &callsdv1.StreamCaptionsRequest{
		Message: &callsdv1.StreamCaptionsRequest_Config{Config: s.config},
	}
	for next != nil && call.Send(next) == nil {
		next = s.awaitNext(ctx)
	}
	if ctx.Err() == nil {
		call.CloseSend()
	}
}

// awaitNext is the next message for a connection; nil at its end, or when the sender is to end.
func (s *CaptionSender) awaitNext(ctx context.Context) *callsdv1.StreamCaptionsRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ctx.Err() == nil {
		if s.isResumed {
			if next := s.audio.next(); next != nil || s.isEnding {
				return next
			}
		}
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		s.mu.Lock()
	}
	return nil
}
