// SPDX-License-Identifier: Apache-2.0

package callsd

import (
	"cmp"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	callsdv1 "github.com/callsd/callsd/clients/go/callsd/v1"
)

const (
	// The most that the API takes in one batch.
	maxBatchChunks = 1000
	maxBatchBytes  = 512 << 10

	// Sound of one speaker that a sender keeps: three times what the daemon takes in before it
	// makes a sender wait, so that live sound is not held up by a restart.
	keepSamples = 60 * sampleRate
	// The same for all speakers together: 17 minutes of s16le.
	keepBytes = 32 << 20

	// As the daemon does: chunks whose stamps are rounded are one sound, and one that begins long
	// before the sound ahead of it has ended is refused there.
	joinSamples       = sampleRate / 50
	maxOverlapSamples = sampleRate / 2
)

// sentAudio is the sound of one call from its sender's side: numbered, and kept while it may be
// asked for again. No I/O, and not for several goroutines at once.
//
// The daemon can lose all sound that it has not worked off, by being killed. So each chunk is kept
// until it is worked off, and after a cut what the daemon says it does not have is sent again.
type sentAudio struct {
	speakers    map[string]*sentSpeaker
	unsent      []message
	order       int64
	keptBytes   int
	isBegun     bool
	isConnected bool
}

// message is a chunk or, without one, an event.
type message struct {
	chunk *callsdv1.AudioChunk
	event *callsdv1.SpeakerEvent
}

// keptMessage may have to be sent again; an event lasts no samples.
type keptMessage struct {
	message
	order     int64
	endSample int64
	samples   int64
}

// sentSpeaker is what is known of one speaker.
type sentSpeaker struct {
	name string
	// sequence of the last chunk, ours or, when we began, that of the sender before us.
	sequence int64
	// endSample is the end of the last chunk, if there was one.
	endSample       int64
	hasSpoken       bool
	processedSample int64
	// kept in order; two events never follow each other.
	kept        []keptMessage
	keptSamples int64
	joined      *callsdv1.SpeakerEvent
	ack         *callsdv1.AudioAck
}

func newSentAudio() *sentAudio { return &sentAudio{speakers: map[string]*sentSpeaker{}} }

// What the caller has

// hasRoom tells whether a piece can be kept; one is always taken where nothing is.
func (a *sentAudio) hasRoom(p piece) bool {
	kept := a.speaker(p.speaker).keptSamples
	return (kept == 0 || kept+p.samples <= keepSamples) &&
		(a.keptBytes == 0 || a.keptBytes+len(p.data) <= keepBytes)
}

// add numbers a piece, keeps it, and has it sent.
func (a *sentAudio) add(p piece) {
	speaker, start := a.speaker(p.speaker), p.startSample
	if gap := start - speaker.endSample; speaker.hasSpoken &&
		-maxOverlapSamples <= gap && gap <= joinSamples {
		start = speaker.endSample
	}
	speaker.sequence++
	speaker.endSample, speaker.hasSpoken = start+p.samples, true
	chunk := message{chunk: &callsdv1.AudioChunk{
		Speaker:     p.speaker,
		Sequence:    speaker.sequence,
		StartOffset: toOffset(start),
		Data:        p.data,
	}}
	speaker.keptSamples += p.samples
	a.keptBytes += len(p.data)
	a.keep(speaker, chunk, p.samples)
	a.send(chunk)
}

// change tells of a speaker's change, at the end of the speaker's sound.
func (a *sentAudio) change(name string, change callsdv1.SpeakerEventType, displayName string) {
	speaker := a.speaker(name)
	event := message{event: &callsdv1.SpeakerEvent{
		Speaker:     name,
		Type:        change,
		Offset:      toOffset(speaker.endSample),
		DisplayName: displayName,
	}}
	if change == callsdv1.SpeakerEventType_SPEAKER_EVENT_TYPE_JOINED {
		speaker.joined = event.event
	} else {
		// Of several changes without sound between them the last one counts.
		if last := len(speaker.kept) - 1; last >= 0 && speaker.kept[last].samples == 0 {
			speaker.kept = speaker.kept[:last]
		}
		a.keep(speaker, event, 0)
	}
	a.send(event)
}

// endSpeech has everything worked off now: nobody who still has something to say says more.
func (a *sentAudio) endSpeech() {
	for name, speaker := range a.speakers {
		if speaker.keptSamples > 0 {
			a.change(name, callsdv1.SpeakerEventType_SPEAKER_EVENT_TYPE_MUTED, "")
		}
	}
}

// What a connection does

// next is what to send now, as much as fits in one message; nil if all is sent.
func (a *sentAudio) next() *callsdv1.StreamCaptionsRequest {
	if len(a.unsent) == 0 {
		return nil
	}
	if event := a.unsent[0].event; event != nil {
		a.pop()
		return &callsdv1.StreamCaptionsRequest{
			Message: &callsdv1.StreamCaptionsRequest_Event{Event: event},
		}
	}
	var chunks []*callsdv1.AudioChunk
	size := 0
	for len(a.unsent) > 0 && len(chunks) < maxBatchChunks {
		chunk := a.unsent[0].chunk
		if chunk == nil {
			break
		}
		size += proto.Size(chunk)
		if size > maxBatchBytes && len(chunks) > 0 {
			break
		}
		chunks = append(chunks, chunk)
		a.pop()
	}
	if len(chunks) == 1 {
		return &callsdv1.StreamCaptionsRequest{
			Message: &callsdv1.StreamCaptionsRequest_Audio{Audio: chunks[0]},
		}
	}
	return &callsdv1.StreamCaptionsRequest{
		Message: &callsdv1.StreamCaptionsRequest_Batch{Batch: &callsdv1.AudioBatch{Chunks: chunks}},
	}
}

// learn lets go of what is worked off; with the first answer on a connection, what the daemon lacks
// is sent again. The error is that it has sound which is not ours: another sender is at work.
func (a *sentAudio) learn(acks []*callsdv1.AudioAck, isFirst bool) error {
	received := map[string]int64{}
	for _, ack := range acks {
		received[ack.GetSpeaker()] = ack.GetReceivedSequence()
		speaker := a.speaker(ack.GetSpeaker())
		if !a.isBegun {
			speaker.sequence = ack.GetReceivedSequence()
		} else if ack.GetReceivedSequence() > speaker.sequence {
			return replaced(speaker.name)
		}
		a.acknowledge(speaker, ack)
	}
	a.isBegun = true
	if isFirst {
		a.isConnected = true
		a.beginAgain(received)
	}
	return nil
}

// cut takes note that the connection is gone: what is to be sent then, its first answer tells.
func (a *sentAudio) cut() { a.unsent, a.isConnected = nil, false }

func (a *sentAudio) beginAgain(received map[string]int64) {
	var kept []keptMessage
	a.unsent = nil
	for _, speaker := range a.speakers {
		if speaker.joined != nil {
			a.unsent = append(a.unsent, message{event: speaker.joined})
		}
		for _, one := range speaker.kept {
			if one.chunk == nil || one.chunk.GetSequence() > received[speaker.name] {
				kept = append(kept, one)
			}
		}
	}
	slices.SortFunc(kept, func(x, y keptMessage) int { return cmp.Compare(x.order, y.order) })
	for _, one := range kept {
		a.unsent = append(a.unsent, one.message)
	}
}

func (a *sentAudio) acknowledge(speaker *sentSpeaker, ack *callsdv1.AudioAck) {
	speaker.ack = ack
	processed := toSample(ack.GetProcessedOffset().AsDuration())
	speaker.processedSample = max(speaker.processedSample, processed)
	for {
		at := speaker.oldest()
		if at < 0 || speaker.kept[at].endSample > speaker.processedSample {
			return
		}
		chunk := speaker.kept[at]
		speaker.keptSamples -= chunk.samples
		a.keptBytes -= len(chunk.chunk.GetData())
		// An event before the chunk has arrived with it; one behind it may not have.
		clear(speaker.kept[:at+1])
		speaker.kept = speaker.kept[at+1:]
	}
}

// How far it is

// isWorkedOff tells whether the daemon has worked off everything.
func (a *sentAudio) isWorkedOff() bool { return a.keptBytes == 0 }

// lag is the sound from the oldest that is not worked off to the newest, of the slowest speaker.
func (a *sentAudio) lag() time.Duration {
	var longest int64
	for _, speaker := range a.speakers {
		if at := speaker.oldest(); at >= 0 {
			chunk := speaker.kept[at]
			oldest := max(chunk.endSample-chunk.samples, speaker.processedSample)
			longest = max(longest, speaker.endSample-oldest)
		}
	}
	return time.Duration(longest) * sampleDuration
}

// acks has the newest acknowledgement of each speaker.
func (a *sentAudio) acks() map[string]*callsdv1.AudioAck {
	found := map[string]*callsdv1.AudioAck{}
	for name, speaker := range a.speakers {
		if speaker.ack != nil {
			found[name] = speaker.ack
		}
	}
	return found
}

func (a *sentAudio) speaker(name string) *sentSpeaker {
	found := a.speakers[name]
	if found == nil {
		found = &sentSpeaker{name: name}
		a.speakers[name] = found
	}
	return found
}

func (a *sentAudio) send(one message) {
	if a.isConnected {
		a.unsent = append(a.unsent, one)
	}
}

// pop drops the first unsent message, and the array's hold on it.
func (a *sentAudio) pop() {
	a.unsent[0] = message{}
	a.unsent = a.unsent[1:]
}

func (a *sentAudio) keep(speaker *sentSpeaker, one message, samples int64) {
	a.order++
	speaker.kept = append(speaker.kept, keptMessage{one, a.order, speaker.endSample, samples})
}

// oldest is the place of the oldest chunk kept, -1 for none; at most one event is before it.
func (s *sentSpeaker) oldest() int {
	for at := range min(len(s.kept), 2) {
		if s.kept[at].samples > 0 {
			return at
		}
	}
	return -1
}

func replaced(speaker string) error {
	return typed(&Error{
		Code:    codes.Aborted,
		Reason:  "STREAM_REPLACED",
		Message: "another sender has sent sound of " + speaker + " while this one was cut off",
	})
}
