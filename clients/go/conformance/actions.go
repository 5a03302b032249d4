// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/callsd/callsd/clients/go/callsd"
	callsdv1 "github.com/callsd/callsd/clients/go/callsd/v1"
)

// Sound is sent in tenths of a second.
const (
	step      = 100 * time.Millisecond
	stepBytes = 3200
)

type action func(context.Context, command) (any, error)

// action is what does a command, and whether that is a stream.
func (d *driver) action(do string) (act action, isStream bool) {
	switch do {
	case "connect":
		return d.connect, false
	case "cancel":
		return d.cancelTarget, false
	case "createJob":
		return d.createJob, false
	case "getJob":
		return d.getJob, false
	case "listJobs":
		return d.listJobs, false
	case "stopJob":
		return d.stopJob, false
	case "deleteJob":
		return d.deleteJob, false
	case "watchJobs":
		return d.watchJobs, true
	case "upload":
		return d.upload, false
	case "fetchArtifact":
		return d.fetchArtifact, false
	case "sendCaptions":
		return d.sendCaptions, true
	case "watchCaptions":
		return d.watchCaptions, true
	case "isServing":
		return d.isServing, false
	}
	return nil, false
}

func (d *driver) connect(_ context.Context, c command) (any, error) {
	var options []callsd.Option
	if c.TokenFile != "" {
		options = append(options, callsd.WithTokenFile(c.TokenFile))
	}
	if c.CAFile != "" {
		options = append(options, callsd.WithCAFile(c.CAFile))
	}
	client, err := callsd.Dial(c.Address, options...)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.client != nil {
		d.client.Close()
	}
	d.client = client
	return nothing, nil
}

// current is the client of the last `connect`.
func (d *driver) current() *callsd.Client {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.client
}

func (d *driver) cancelTarget(_ context.Context, c command) (any, error) {
	d.cancel(c.Target)
	return nothing, nil
}

func (d *driver) createJob(ctx context.Context, c command) (any, error) {
	request := &callsdv1.CreateJobRequest{}
	if err := protojson.Unmarshal(c.Request, request); err != nil {
		return nil, err
	}
	return message(d.current().Jobs().Create(ctx, request))
}

func (d *driver) getJob(ctx context.Context, c command) (any, error) {
	return message(d.current().Jobs().Get(ctx, c.Name))
}

func (d *driver) listJobs(ctx context.Context, c command) (any, error) {
	filter, err := filter(c)
	if err != nil {
		return nil, err
	}
	names := []string{}
	request := &callsdv1.ListJobsRequest{Filter: filter, PageSize: c.PageSize}
	for job, err := range d.current().Jobs().List(ctx, request) {
		if err != nil {
			return nil, err
		}
		names = append(names, job.GetName())
	}
	return map[string]any{"names": names}, nil
}

func (d *driver) stopJob(ctx context.Context, c command) (any, error) {
	return message(d.current().Jobs().Stop(ctx, c.Name))
}

func (d *driver) deleteJob(ctx context.Context, c command) (any, error) {
	return nothing, d.current().Jobs().Delete(ctx, c.Name)
}

func (d *driver) watchJobs(ctx context.Context, c command) (any, error) {
	filter, err := filter(c)
	if err != nil {
		return nil, err
	}
	tell := func(event callsd.Event) error {
		switch event := event.(type) {
		case callsd.JobChanged:
			job, err := message(event.Job, nil)
			if err != nil {
				return err
			}
			d.event(c, map[string]any{"job": job})
		case callsd.JobDeleted:
			d.event(c, map[string]any{"deleted": event.Name})
		case callsd.Bookmark:
			d.event(c, map[string]any{"bookmark": event.Position})
		case callsd.Interrupted:
			d.event(c, map[string]any{"interrupted": described(event.Err).Reason})
		}
		return pause(ctx, seconds(c.SlowSeconds))
	}
	return nothing, d.current().Jobs().Watch(ctx, filter, c.Resume, tell)
}

func (d *driver) upload(ctx context.Context, c command) (any, error) {
	upload, err := d.current().Media().Upload(ctx, c.Path)
	return map[string]any{"name": upload.GetName()}, err
}

func (d *driver) fetchArtifact(ctx context.Context, c command) (any, error) {
	if _, err := d.current().Artifacts().Fetch(ctx, c.Job, c.Artifact, c.Path); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(c.Path)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	return map[string]any{"sha256": hex.EncodeToString(sum[:]), "sizeBytes": len(data)}, nil
}

func (d *driver) sendCaptions(ctx context.Context, c command) (any, error) {
	data, err := os.ReadFile(c.Path)
	if err != nil {
		return nil, err
	}
	encoding := callsdv1.AudioEncoding_AUDIO_ENCODING_S16LE_16KHZ
	sender, err := d.current().Captions().Stream(ctx, c.Job, encoding)
	if err != nil {
		return nil, err
	}
	defer sender.Close()
	began := time.Now()
	for start := time.Duration(0); len(data) > 0; start += step {
		if c.RealTime {
			if err := pause(ctx, time.Until(began.Add(start))); err != nil {
				return nil, err
			}
		}
		size := min(stepBytes, len(data))
		if err := sender.Send(ctx, c.Speaker, data[:size], start); err != nil {
			return nil, err
		}
		data = data[size:]
	}
	return nothing, sender.Finish(ctx)
}

func (d *driver) watchCaptions(ctx context.Context, c command) (any, error) {
	request := &callsdv1.WatchCaptionsRequest{Job: c.Job, ResumeSequence: proto.Int64(0)}
	tell := func(response *callsdv1.WatchCaptionsResponse) error {
		if caption := response.GetCaption(); caption.GetIsFinal() {
			d.event(c, map[string]any{"final": map[string]any{
				"sequence": caption.GetSequence(),
				"speaker":  caption.GetSpeaker(),
				"text":     caption.GetText(),
			}})
		}
		return nil
	}
	return nothing, d.current().Captions().Watch(ctx, request, tell)
}

func (d *driver) isServing(ctx context.Context, _ command) (any, error) {
	isServing, err := d.current().IsServing(ctx)
	return map[string]any{"serving": isServing}, err
}

func filter(c command) (*callsdv1.JobFilter, error) {
	filter := &callsdv1.JobFilter{}
	if len(c.Filter) == 0 {
		return filter, nil
	}
	return filter, protojson.Unmarshal(c.Filter, filter)
}

// message is a message of the API as JSON.
func message(found proto.Message, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	text, err := protojson.Marshal(found)
	return json.RawMessage(text), err
}

// pause waits unless the time is over; its error is that of a context that ended meanwhile.
func pause(ctx context.Context, time_ time.Duration) error {
	if time_ <= 0 {
		return nil
	}
	select {
	case <-time.After(time_):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
