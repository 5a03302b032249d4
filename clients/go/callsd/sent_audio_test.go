// SPDX-License-Identifier: Apache-2.0

package callsd

import (
	"fmt"
	"strings"
	"testing"
	"time"

	callsdv1 "github.com/callsd/callsd/clients/go/callsd/v1"
)

const (
	s16le = callsdv1.AudioEncoding_AUDIO_ENCODING_S16LE_16KHZ
	opus  = callsdv1.AudioEncoding_AUDIO_ENCODING_OPUS
	muted = callsdv1.SpeakerEventType_SPEAKER_EVENT_TYPE_MUTED
	back  = callsdv1.SpeakerEventType_SPEAKER_EVENT_TYPE_UNMUTED
	join  = callsdv1.SpeakerEventType_SPEAKER_EVENT_TYPE_JOINED
)

// second is a second of a speaker's sound, as many as are asked for.
func second(speaker string, start int, count int) []piece {
	sound := Sound{Speaker: speaker, Data: make([]byte, 32_000*count), Start: time.Duration(start) * time.Second}
	cut, err := pieces(sound, s16le)
	if err != nil {
		panic(err)
	}
	return cut
}

func add(a *sentAudio, cut []piece) {
	for _, one := range cut {
		a.add(one)
	}
}

func ack(speaker string, received int64, processed time.Duration) *callsdv1.AudioAck {
	return &callsdv1.AudioAck{
		Speaker:          speaker,
		ReceivedSequence: received,
		ProcessedOffset:  toOffset(toSample(processed)),
	}
}

// drain is all that is to be sent, in short; chunks as speaker and number.
func drain(a *sentAudio) string {
	var sent []string
	for next := a.next(); next != nil; next = a.next() {
		chunks := next.GetBatch().GetChunks()
		if one := next.GetAudio(); one != nil {
			chunks = append(chunks, one)
		}
		for _, chunk := range chunks {
			sent = append(sent, fmt.Sprintf("%s%d", chunk.GetSpeaker(), chunk.GetSequence()))
		}
		if event := next.GetEvent(); event != nil {
			sent = append(sent, fmt.Sprintf("%s:%s", event.GetSpeaker(), event.GetType().String()[19:]))
		}
	}
	return strings.Join(sent, " ")
}

func begun(t *testing.T, acks ...*callsdv1.AudioAck) *sentAudio {
	t.Helper()
	a := newSentAudio()
	equal(t, a.learn(acks, true), nil)
	return a
}

// Chunks are numbered for each speaker from 1, or behind what an earlier sender has sent.
func TestNumbers(t *testing.T) {
	a := begun(t, ack("b", 7, 0))
	add(a, second("a", 0, 1))
	add(a, second("b", 0, 1))
	add(a, second("a", 1, 1))
	equal(t, drain(a), "a1 b8 a2")
}

// After a cut that is sent again which the daemon does not have, in order and with its number,
// although it was acknowledged before; what was worked off is not.
func TestSentAgain(t *testing.T) {
	a := begun(t)
	add(a, second("a", 0, 3))
	a.change("a", join, "Ada")
	add(a, second("b", 1, 1))
	a.change("b", muted, "")
	drain(a)
	equal(t, a.learn([]*callsdv1.AudioAck{ack("a", 3, time.Second), ack("b", 1, 0)}, false), nil)
	a.cut()
	add(a, second("a", 3, 1))
	add(a, second("b", 2, 1))
	equal(t, drain(a), "") // nobody is there to take it
	equal(t, a.learn([]*callsdv1.AudioAck{ack("a", 1, 0)}, true), nil)
	equal(t, drain(a), "a:JOINED a2 a3 b1 b:MUTED a4 b2")
}

// Sound is kept until its end is worked off, to the sample, and no longer.
func TestKept(t *testing.T) {
	a := begun(t)
	add(a, second("a", 0, 1))
	equal(t, a.learn([]*callsdv1.AudioAck{ack("a", 1, time.Second-sampleDuration)}, false), nil)
	equal(t, a.isWorkedOff(), false)
	equal(t, a.lag(), sampleDuration)
	equal(t, a.learn([]*callsdv1.AudioAck{ack("a", 1, time.Second)}, false), nil)
	equal(t, a.isWorkedOff(), true)
	equal(t, a.lag(), 0)
}

// A minute of a speaker is kept, then there is no room, for this speaker; one piece there always is.
func TestRoom(t *testing.T) {
	a := begun(t)
	add(a, second("a", 0, 59))
	last := second("a", 59, 1)
	for _, one := range last {
		equal(t, a.hasRoom(one), true)
		a.add(one)
	}
	more := piece{speaker: "a", data: make([]byte, 2), samples: 1}
	equal(t, a.hasRoom(more), false)
	more.speaker = "b"
	equal(t, a.hasRoom(more), true)
	huge := piece{speaker: "b", data: make([]byte, 2), samples: 2 * keepSamples}
	equal(t, a.hasRoom(huge), true)
}

// Chunks whose stamps are rounded join; a pause stays.
func TestStamps(t *testing.T) {
	a := begun(t)
	var starts []time.Duration
	for _, start := range []time.Duration{0, 115 * time.Millisecond, 205 * time.Millisecond, time.Second} {
		cut, _ := pieces(Sound{Speaker: "a", Data: make([]byte, 3200), Start: start}, s16le)
		add(a, cut)
		starts = append(starts, a.next().GetAudio().GetStartOffset().AsDuration())
	}
	equal(t, fmt.Sprint(starts), "[0s 100ms 200ms 1s]")
}

// Of several changes without sound between them the last one is sent again; at the end everybody
// who still has something to say is muted, and nobody else.
func TestChanges(t *testing.T) {
	a := begun(t)
	add(a, second("a", 0, 1))
	a.change("a", muted, "")
	a.change("a", back, "")
	a.change("b", join, "Bob")
	a.endSpeech()
	a.cut()
	equal(t, a.learn(nil, true), nil)
	equal(t, drain(a), "b:JOINED a1 a:MUTED")
}

// Sound that is not ours tells that another sender is at work.
func TestReplaced(t *testing.T) {
	a := begun(t)
	add(a, second("a", 0, 1))
	err := a.learn([]*callsdv1.AudioAck{ack("a", 2, 0)}, false)
	equal(t, as[*ConflictError](t, err).Reason, "STREAM_REPLACED")
}

// A batch stays below what the API takes.
func TestBatches(t *testing.T) {
	a := begun(t)
	add(a, second("a", 0, 40))
	for range 1500 {
		a.add(piece{speaker: "b", data: make([]byte, 2), samples: 1})
	}
	var total int
	for next := a.next(); next != nil; next = a.next() {
		size := 0
		for _, chunk := range next.GetBatch().GetChunks() {
			size += len(chunk.GetData())
		}
		count := len(next.GetBatch().GetChunks())
		if size > maxBatchBytes || count > maxBatchChunks {
			t.Fatalf("%d chunks, %d bytes", count, size)
		}
		total += max(count, 1)
	}
	equal(t, total, 40_000*32/(maxChunkBytes)+1+1500)
}

// An Opus packet lasts as long as its first bytes say.
func TestOpus(t *testing.T) {
	for _, one := range []struct {
		packet []byte
		length time.Duration
	}{
		{[]byte{9 << 3}, 20 * time.Millisecond},       // SILK
		{[]byte{3<<3 | 1}, 120 * time.Millisecond},    // SILK, two frames
		{[]byte{13 << 3}, 20 * time.Millisecond},      // hybrid
		{[]byte{16 << 3}, 2500 * time.Microsecond},    // CELT
		{[]byte{31<<3 | 3, 3}, 60 * time.Millisecond}, // CELT, three frames
	} {
		cut, err := pieces(Sound{Data: one.packet}, opus)
		equal(t, err, nil)
		equal(t, time.Duration(cut[0].samples)*sampleDuration, one.length)
	}
	for _, wrong := range [][]byte{nil, {3}, {3, 0}} {
		_, err := pieces(Sound{Data: wrong}, opus)
		as[*InvalidRequestError](t, err)
	}
	_, err := pieces(Sound{Data: []byte{1}}, s16le)
	as[*InvalidRequestError](t, err)
}
