// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/callsd/callsd/clients/go/callsd"
	callsdv1 "github.com/callsd/callsd/clients/go/callsd/v1"
)

const (
	// Marks our jobs, so that a watch shows no others.
	appLabel, appName = "app", "plugin-example"
	channelLabel      = "channel"

	// The longest that a call's end may take: the last words, the recording's joining, the files.
	endTimeout = 2 * time.Minute
)

// Server is the part of a chat server's plugin API that this plugin needs.
type Server interface {
	// Post writes a message into a channel.
	Post(channel, text string)
	// Caption shows words to those who are in the channel's call; final ones do not change again.
	Caption(channel, speaker, text string, isFinal bool)
}

// Plugin records and captions the calls of a chat server. Its hooks are called by the server, from
// any goroutine.
type Plugin struct {
	server Server
	client *callsd.Client
	folder string // where the files of calls go

	stop     context.CancelFunc
	watching sync.WaitGroup

	mu    sync.Mutex
	calls map[string]*call
}

// Activate connects to the daemon and follows our jobs.
func Activate(server Server, client *callsd.Client, folder string) *Plugin {
	ctx, stop := context.WithCancel(context.Background())
	p := &Plugin{
		server: server, client: client, folder: folder, stop: stop, calls: map[string]*call{},
	}
	p.watching.Go(func() { p.follow(ctx) })
	return p
}

// Deactivate stops what still goes on.
func (p *Plugin) Deactivate() {
	p.mu.Lock()
	var channels []string
	for channel := range p.calls {
		channels = append(channels, channel)
	}
	p.mu.Unlock()
	for _, channel := range channels {
		p.CallEnded(channel)
	}
	p.stop()
	p.watching.Wait()
	p.client.Close()
}

// CallStarted begins to record the call's page and to caption its sound. It returns soon, as the
// server waits for it.
func (p *Plugin) CallStarted(channel string, page *callsdv1.RecordingSpec) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c := &call{plugin: p, channel: channel}
	c.recording = p.begin(ctx, channel, "Recording", &callsdv1.Job{
		Spec: &callsdv1.Job_Recording{Recording: page},
	})
	c.captions = p.begin(ctx, channel, "Live captions", &callsdv1.Job{
		Spec: &callsdv1.Job_Captions{Captions: &callsdv1.CaptionsSpec{Language: "en"}},
	})
	if c.captions != "" {
		if err := c.openCaptions(ctx); err != nil {
			p.server.Post(channel, "Live captions are not there: "+reasonFor(err))
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls[channel] = c
}

// begin asks for a job and says in the channel what came of it; without a job it is "". A call goes
// on without what there is no room for.
func (p *Plugin) begin(ctx context.Context, channel, what string, job *callsdv1.Job) string {
	job.Labels = map[string]string{appLabel: appName, channelLabel: channel}
	created, err := p.client.Jobs().Create(ctx, &callsdv1.CreateJobRequest{Job: job})
	if err != nil {
		p.server.Post(channel, what+" did not start: "+reasonFor(err))
		return ""
	}
	return created.GetJob().GetName()
}

// Joined tells the name of somebody in the call.
func (p *Plugin) Joined(channel, user, name string) {
	if c := p.call(channel); c != nil && c.sender != nil {
		c.sender.Joined(user, name)
	}
}

// Muted tells that somebody's microphone is off.
func (p *Plugin) Muted(channel, user string) {
	if c := p.call(channel); c != nil && c.sender != nil {
		c.sender.Muted(user)
	}
}

// Audio takes an Opus packet of somebody in the call. It never blocks: behind it is what receives
// everybody's sound.
func (p *Plugin) Audio(channel, user string, packet []byte, at time.Duration) {
	if c := p.call(channel); c != nil && c.sender != nil {
		c.put(callsd.Sound{Speaker: user, Data: packet, Start: at})
	}
}

// CallEnded puts everything in order and tells where the files are.
func (p *Plugin) CallEnded(channel string) {
	p.mu.Lock()
	c := p.calls[channel]
	delete(p.calls, channel)
	p.mu.Unlock()
	if c == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	c.end(ctx)
}

func (p *Plugin) call(channel string) *call {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls[channel]
}

// follow tells channels what becomes of their jobs: one watch for all calls, over any number of
// restarts of the daemon.
func (p *Plugin) follow(ctx context.Context) {
	ours := &callsdv1.JobFilter{Labels: map[string]string{appLabel: appName}}
	isNews := false // jobs of an earlier run come first
	states := map[string]callsdv1.JobState{}
	tell := func(event callsd.Event) error {
		switch event := event.(type) {
		case callsd.Bookmark:
			isNews = true
		case callsd.JobChanged:
			job := event.Job
			if isNews && states[job.GetName()] != job.GetState() {
				p.tellState(job)
			}
			states[job.GetName()] = job.GetState()
		case callsd.JobDeleted:
			delete(states, event.Name)
		}
		return nil
	}
	for {
		// It ends where the daemon stays away for longer than the client's patience, too.
		err := p.client.Jobs().Watch(ctx, ours, nil, tell)
		if errors.Is(err, context.Canceled) || errors.Is(err, callsd.ErrClosed) {
			return
		}
		select {
		case <-time.After(10 * time.Second):
		case <-ctx.Done():
			return
		}
	}
}

func (p *Plugin) tellState(job *callsdv1.Job) {
	channel, what := job.GetLabels()[channelLabel], kindName(job.GetKind())
	switch job.GetState() {
	case callsdv1.JobState_JOB_STATE_RUNNING:
		p.server.Post(channel, what+" is running.")
	case callsdv1.JobState_JOB_STATE_FAILED:
		p.server.Post(channel, fmt.Sprintf("%s failed: %s", what, job.GetFailure().GetMessage()))
	}
}

func kindName(kind callsdv1.JobKind) string {
	switch kind {
	case callsdv1.JobKind_JOB_KIND_RECORDING:
		return "The recording"
	case callsdv1.JobKind_JOB_KIND_CAPTIONS:
		return "Captioning"
	default:
		return "A job"
	}
}

// reasonFor is an error in the words of a channel.
func reasonFor(err error) string {
	var full *callsd.CapacityError
	var away *callsd.UnavailableError
	var denied *callsd.AccessError
	var late *callsd.DeadlineError
	switch {
	case errors.As(err, &full) && full.Reason == "CPU_EXHAUSTED":
		return fmt.Sprintf("the machine is busy (%.1f processor cores are needed, %.1f are free). "+
			"Try again in %s.", full.Required, max(full.Available, 0), full.RetryAfter)
	case errors.As(err, &full):
		return fmt.Sprintf("the machine has no room for it now (%s). %s", full.Reason, full.Message)
	case errors.As(err, &away), errors.As(err, &late):
		return "the service for recordings and captions does not answer; an administrator should look."
	case errors.As(err, &denied):
		return "this server has no permission; an administrator should renew its token."
	default:
		return err.Error()
	}
}
