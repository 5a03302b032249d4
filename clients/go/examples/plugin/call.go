// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/callsd/callsd/clients/go/callsd"
	callsdv1 "github.com/callsd/callsd/clients/go/callsd/v1"
)

// Packets that may wait on their way to the sender: 10 s of 10 speakers.
const maxWaiting = 5000

// call is one call that goes on.
type call struct {
	plugin    *Plugin
	channel   string
	recording string // name of its job, or ""
	captions  string // name of its job, or ""

	// All below are there if captions are.
	sender  *callsd.CaptionSender
	waiting chan callsd.Sound
	dropped atomic.Int64
	closing sync.RWMutex // held for writing once, to close `waiting`
	isOver  bool
	sending sync.WaitGroup
	showing sync.WaitGroup
}

// openCaptions begins to forward sound, and to show what is said.
func (c *call) openCaptions(ctx context.Context) error {
	captions := c.plugin.client.Captions()
	sender, err := captions.Stream(ctx, c.captions, callsdv1.AudioEncoding_AUDIO_ENCODING_OPUS)
	if err != nil {
		return err
	}
	c.sender, c.waiting = sender, make(chan callsd.Sound, maxWaiting)
	c.sending.Go(c.forward)
	c.showing.Go(func() {
		request := &callsdv1.WatchCaptionsRequest{Job: c.captions}
		// It ends with the job.
		if err := captions.Watch(context.Background(), request, c.show); err != nil {
			c.plugin.server.Post(c.channel, "Live captions are not shown: "+reasonFor(err))
		}
	})
	return nil
}

// put hands a packet on, or drops it where too many wait.
func (c *call) put(sound callsd.Sound) {
	c.closing.RLock()
	defer c.closing.RUnlock()
	if c.isOver {
		return
	}
	select {
	case c.waiting <- sound:
	default:
		if c.dropped.Add(1) == 1 {
			c.plugin.server.Post(c.channel, "Captions cannot keep up; some words will be missing.")
		}
	}
}

// forward sends packets, as many at once as there are, to the end of the call.
func (c *call) forward() {
	for sound := range c.waiting {
		batch := []callsd.Sound{sound}
		for len(c.waiting) > 0 && len(batch) < 200 {
			batch = append(batch, <-c.waiting)
		}
		if err := c.sender.SendBatch(context.Background(), batch...); err != nil {
			c.plugin.server.Post(c.channel, "Live captions have ended: "+reasonFor(err))
			break
		}
	}
	for range c.waiting { // nobody is to wait for us
	}
}

func (c *call) show(response *callsdv1.WatchCaptionsResponse) error {
	if caption := response.GetCaption(); caption != nil {
		name := caption.GetDisplayName()
		if name == "" {
			name = caption.GetSpeaker()
		}
		c.plugin.server.Caption(c.channel, name, caption.GetText(), caption.GetIsFinal())
	}
	return nil
}

// end finishes sound and jobs, and fetches what they have made.
func (c *call) end(ctx context.Context) {
	if c.sender != nil {
		c.closing.Lock()
		c.isOver = true
		close(c.waiting)
		c.closing.Unlock()
		c.sending.Wait()
		if err := c.sender.Finish(ctx); err != nil {
			c.plugin.server.Post(c.channel, "The last words have no captions: "+reasonFor(err))
		}
	}
	for _, name := range []string{c.captions, c.recording} {
		if name == "" {
			continue
		}
		if err := c.collect(ctx, name); err != nil {
			c.plugin.server.Post(c.channel, fmt.Sprintf("%s is not finished: %s", name, reasonFor(err)))
		}
	}
	c.showing.Wait()
}

// collect stops a job, waits for its end and fetches its files.
func (c *call) collect(ctx context.Context, name string) error {
	client := c.plugin.client
	if _, err := client.Jobs().Stop(ctx, name); err != nil {
		return err
	}
	job, err := client.Jobs().Wait(ctx, name)
	if err != nil {
		return err
	}
	folder := filepath.Join(c.plugin.folder, c.channel)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	for _, artifact := range job.GetArtifacts() {
		file := path.Base(artifact.GetName())
		to := filepath.Join(folder, file)
		if _, err := client.Artifacts().Fetch(ctx, name, file, to); err != nil {
			return err
		}
		c.plugin.server.Post(c.channel, fmt.Sprintf("%s (%d bytes)", to, artifact.GetSizeBytes()))
	}
	return nil // a failure was told by the watch
}
