// SPDX-License-Identifier: Apache-2.0

package callsd

import (
	"io/fs"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
)

// Tries come quickly at first, then every 2.5 to 5 s, until the patience has gone by.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := typed(&Error{Code: codes.Unavailable})
		b := &backoff{patience: time.Minute}
		if _, err := b.failed(away); err == nil {
			t.Fatal("a stream that never worked is tried again")
		}
		b.answered()
		began, limit := time.Now(), firstDelay
		for {
			delay, err := b.failed(away)
			if err != nil {
				break
			}
			if delay < limit/2 || delay > limit {
				t.Fatalf("%s, expected %s to %s", delay, limit/2, limit)
			}
			limit = min(2*limit, maxDelay)
			time.Sleep(delay)
		}
		if waited := time.Since(began); waited < time.Minute || waited > time.Minute+maxDelay {
			t.Fatalf("given up after %s", waited)
		}
		b.answered()
		if delay, err := b.failed(away); err != nil || delay > firstDelay {
			t.Fatalf("an answer does not begin anew: %s, %v", delay, err)
		}
	})
}

// The daemon's own word on when to come back counts, if it is later.
func TestRetryAfter(t *testing.T) {
	b := &backoff{patience: time.Minute}
	b.answered()
	delay, err := b.failed(typed(&Error{Code: codes.Unavailable, RetryAfter: 7 * time.Second}))
	equal(t, err, nil)
	equal(t, delay, 7*time.Second)
}

// A daemon that has answered other calls is waited for; what it refuses is told at once.
func TestKnownDaemon(t *testing.T) {
	client := &Client{patience: time.Minute}
	away := typed(&Error{Code: codes.Unavailable})
	full := typed(&Error{Code: codes.ResourceExhausted, Reason: "STREAMS_EXHAUSTED"})
	if _, err := client.backoff().failed(away); err == nil {
		t.Fatal("a daemon that never answered is waited for")
	}
	client.answered.Store(true)
	b := client.backoff()
	if _, err := b.failed(away); err != nil {
		t.Fatal(err)
	}
	if _, err := b.failed(full); err == nil {
		t.Fatal("a stream that was never let in comes back")
	}
	b.answered()
	if _, err := b.failed(full); err != nil {
		t.Fatal(err)
	}
}

// A token file that has gone with its daemon is waited for; one that cannot be read is not.
func TestTokenGone(t *testing.T) {
	b := &backoff{patience: time.Minute}
	gone := unreadable("token file", "/run/callsd/owner.token", fs.ErrNotExist)
	if _, err := b.failed(gone); err == nil {
		t.Fatal("the token of a daemon that never answered is waited for")
	}
	b.answered()
	if _, err := b.failed(gone); err != nil {
		t.Fatal(err)
	}
	if _, err := b.failed(unreadable("token file", "/etc/callsd/token", fs.ErrPermission)); err == nil {
		t.Fatal("a token file of somebody else is tried again")
	}
}

// What another try cannot help is not tried again.
func TestFinal(t *testing.T) {
	for _, e := range []*Error{
		{Code: codes.Aborted, Reason: "STREAM_REPLACED"},
		{Code: codes.Internal, Reason: "INTERNAL"},
		{Code: codes.Unknown, Reason: "INTERNAL"},
		{Code: codes.ResourceExhausted},
		{Code: codes.DeadlineExceeded},
		{Code: codes.DataLoss},
	} {
		b := &backoff{patience: time.Minute}
		b.answered()
		if _, err := b.failed(typed(e)); err == nil {
			t.Errorf("%v is tried again", e)
		}
	}
}
