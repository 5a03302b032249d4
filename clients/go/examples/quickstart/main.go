// SPDX-License-Identifier: Apache-2.0

// The quick start of README.md.
package main

import (
	"context"
	"errors"
	"log"

	"github.com/callsd/callsd/clients/go/callsd"
	callsdv1 "github.com/callsd/callsd/clients/go/callsd/v1"
)

func main() {
	if err := transcribe(context.Background(), "maya.ogg", "maya.vtt"); err != nil {
		log.Fatal(err)
	}
}

func transcribe(ctx context.Context, sound, transcript string) error {
	client, err := callsd.Dial("") // CALLSD_ADDRESS, else the daemon of this machine
	if err != nil {
		return err
	}
	defer client.Close()
	upload, err := client.Media().Upload(ctx, sound)
	if err != nil {
		return err
	}
	track := &callsdv1.Track{Speaker: "Maya", Media: &callsdv1.Track_Upload{Upload: upload.Name}}
	spec := &callsdv1.TranscriptionSpec{Tracks: []*callsdv1.Track{track}}
	job := &callsdv1.Job{Spec: &callsdv1.Job_Transcription{Transcription: spec}}
	created, err := client.Jobs().Create(ctx, &callsdv1.CreateJobRequest{Job: job})
	if full := (*callsd.CapacityError)(nil); errors.As(err, &full) {
		log.Printf("%s: needs %g, there is %g", full.Reason, full.Required, full.Available)
	}
	if err != nil {
		return err
	}
	job, err = client.Jobs().Wait(ctx, created.Job.Name)
	if err != nil {
		return err
	}
	if job.Failure != nil {
		return errors.New(job.Failure.Message)
	}
	_, err = client.Artifacts().Fetch(ctx, job.Name, "transcript.vtt", transcript)
	return err
}
