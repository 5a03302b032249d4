// SPDX-License-Identifier: Apache-2.0

package callsd

import (
	"context"
	"fmt"
	"sync"
	"time"

	callsdv1 "github.com/callsd/callsd/clients/go/callsd/v1"
)

const (
	// How long Finish waits when its context has no deadline.
	finishTimeout = 30 * time.Second
	// The sender sees at once that it is to end; this is for a daemon that does not let go.
	goodbyeTimeout = 5 * time.Second
)

// CaptionSender sends the sound of one call, whatever happens to the connection or the daemon.
//
// Sound that was given to Send is numbered, kept until it is worked off, and sent again where a
// daemon has lost it: none is left out and none comes twice. When more waits than the sender may
// keep, a minute of one speaker, Send blocks.
//
// Every method returns what ended the sender, once something has: STREAM_REPLACED when another
// sender took over the call, JOB_STATE_CONFLICT when the call is over, UNAVAILABLE when the daemon
// stayed away for longer than the client's patience. Safe for use by several goroutines.
type CaptionSender struct {
	client  *Client
	config  *callsdv1.CaptionsConfig
	cancel  context.CancelFunc
	stopped chan struct{} // closed when run has returned

	mu sync.Mutex
	// changed is closed, and replaced, whenever something below changes.
	changed   chan struct{}
	audio     *sentAudio
	isResumed bool // whether the daemon has told what it has, on this connection
	isEnding  bool // whether all is worked off and the sender is to end
	isClosed  bool
	err       error // what ended the sender
}

// Stream begins to send the sound of a call to its captions job. It goes on where an earlier sender
// of the same job was. The context is for the connecting alone; the sender lives until Finish or
// Close.
func (c *Captions) Stream(
	ctx context.Context, job string, encoding callsdv1.AudioEncoding,
) (*CaptionSender, error) {
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s := &CaptionSender{
		client:  c.client,
		config:  &callsdv1.CaptionsConfig{Job: jobName(job), Encoding: encoding},
		cancel:  cancel,
		stopped: make(chan struct{}),
		changed: make(chan struct{}),
		audio:   newSentAudio(),
	}
	go s.run(running)
	s.mu.Lock()
	err := s.wait(ctx, c.client.patience, func() bool { return s.isResumed })
	s.mu.Unlock()
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Send sends some of a speaker's sound: whole samples of s16le, of any length, or one Opus packet,
// made at start from the beginning of the call. A pause is silence. The data is copied.
//
// It is a [*DeadlineError] if there was no room for it within the client's patience.
func (s *CaptionSender) Send(
	ctx context.Context, speaker string, data []byte, start time.Duration,
) error {
	return s.SendBatch(ctx, Sound{Speaker: speaker, Data: data, Start: start})
}

// SendBatch sends sound of several speakers, in one message if possible; otherwise it is Send.
func (s *CaptionSender) SendBatch(ctx context.Context, sounds ...Sound) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.check(); err != nil {
		return err
	}
	defer s.notify()
	for _, sound := range sounds {
		cut, err := pieces(sound, s.config.GetEncoding())
		if err != nil {
			return err
		}
		for _, one := range cut {
			hasRoom := func() bool { return s.audio.hasRoom(one) }
			if !hasRoom() {
				s.notify()
				if err := s.wait(ctx, s.client.patience, hasRoom); err != nil {
					return err
				}
			}
			s.audio.add(one)
		}
	}
	return nil
}

// Joined tells that a speaker joined, or has another name to show.
func (s *CaptionSender) Joined(speaker, displayName string) error {
	return s.change(speaker, callsdv1.SpeakerEventType_SPEAKER_EVENT_TYPE_JOINED, displayName)
}

// Muted tells that a speaker's microphone is off: what was said is worked off at once.
func (s *CaptionSender) Muted(speaker string) error {
	return s.change(speaker, callsdv1.SpeakerEventType_SPEAKER_EVENT_TYPE_MUTED, "")
}

// Unmuted tells that a speaker's microphone is on again.
func (s *CaptionSender) Unmuted(speaker string) error {
	return s.change(speaker, callsdv1.SpeakerEventType_SPEAKER_EVENT_TYPE_UNMUTED, "")
}

// Left tells that a speaker has left the call.
func (s *CaptionSender) Left(speaker string) error {
	return s.change(speaker, callsdv1.SpeakerEventType_SPEAKER_EVENT_TYPE_LEFT, "")
}

// Lag is the sound from the oldest that is not worked off to the newest, of the slowest speaker.
func (s *CaptionSender) Lag() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.audio.lag()
}

// Acks is what the daemon has of each speaker, by its last word.
func (s *CaptionSender) Acks() map[string]*callsdv1.AudioAck {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.audio.acks()
}

// Finish ends the sender: everybody stops talking, and everything is worked off. The job goes on.
// It is a [*DeadlineError] if that takes longer than the context allows, or 30 s if it has no
// deadline; the daemon goes on with what it has.
func (s *CaptionSender) Finish(ctx context.Context) error {
	defer s.Close()
	s.mu.Lock()
	err := s.check()
	if err == nil {
		s.audio.endSpeech()
		s.notify()
		err = s.wait(ctx, finishTimeout, s.audio.isWorkedOff)
	}
	s.isEnding = err == nil
	isConnected := s.isResumed
	s.notify()
	s.mu.Unlock()
	if err != nil || !isConnected {
		return err
	}
	timer := time.NewTimer(goodbyeTimeout)
	defer timer.Stop()
	select {
	case <-s.stopped:
	case <-timer.C:
	}
	return nil
}

// Close disconnects at once; what is not worked off yet may be lost. After Finish it does nothing.
// It always returns nil.
func (s *CaptionSender) Close() error {
	s.mu.Lock()
	s.isClosed = true
	s.notify()
	s.mu.Unlock()
	s.cancel()
	<-s.stopped
	return nil
}

// For the holder of the lock

func (s *CaptionSender) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *CaptionSender) check() error {
	if s.err != nil {
		return s.err
	}
	if s.isClosed || s.isEnding {
		return ErrClosed
	}
	return nil
}

// wait lets go of the lock until something holds, the sender ends, or time is up: that of the
// context, or without a deadline the limit.
func (s *CaptionSender) wait(ctx context.Context, limit time.Duration, holds func() bool) error {
	if _, isSet := ctx.Deadline(); !isSet {
		limited, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		ctx = limited
	}
	for {
		if err := s.check(); err != nil {
			return err
		}
		if holds() {
			return nil
		}
		if ctx.Err() != nil {
			return ofContext(ctx, s.overdue())
		}
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		s.mu.Lock()
	}
}

func (s *CaptionSender) overdue() string {
	if !s.audio.isBegun {
		return "the daemon did not answer in time"
	}
	return fmt.Sprintf("%.1f s of sound were not worked off in time", s.audio.lag().Seconds())
}

func (s *CaptionSender) change(
	speaker string, change callsdv1.SpeakerEventType, displayName string,
) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.check(); err != nil {
		return err
	}
	s.audio.change(speaker, change, displayName)
	s.notify()
	return nil
}
