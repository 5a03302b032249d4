// SPDX-License-Identifier: Apache-2.0

package callsd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	callsdv1 "github.com/callsd/callsd/clients/go/callsd/v1"
)

// listener takes a call's sound as the daemon does: it works off what has come a while ago, and
// forgets the rest when it is killed, which happens at each call's chunk number `lifetime`.
type listener struct {
	mu       sync.Mutex
	lifetime int
	delay    int // chunks between received and worked off
	worked   map[string][]byte
	received map[string][]byte
	count    map[string]int64
	refusals []error // of the next calls
	calls    int
	isDeaf   bool // takes everything, works off nothing
}

func newListener() *listener {
	return &listener{worked: map[string][]byte{}, received: map[string][]byte{}, count: map[string]int64{}}
}

func (l *listener) acks() *callsdv1.StreamCaptionsResponse {
	response := &callsdv1.StreamCaptionsResponse{}
	for speaker, data := range l.received {
		response.Acks = append(response.Acks, &callsdv1.AudioAck{
			Speaker:          speaker,
			ReceivedSequence: l.count[speaker],
			ReceivedOffset:   toOffset(int64(len(data) / sampleBytes)),
			ProcessedOffset:  toOffset(int64(len(l.worked[speaker]) / sampleBytes)),
		})
	}
	return response
}

// forget is a kill: only what was worked off is still there. Chunks are of equal size.
func (l *listener) forget(chunkBytes int) {
	for speaker := range l.received {
		l.received[speaker] = l.worked[speaker][:len(l.worked[speaker]):len(l.worked[speaker])]
		l.count[speaker] = int64(len(l.worked[speaker]) / chunkBytes)
	}
}

func (l *listener) listen(both callsdv1.CaptionService_StreamCaptionsServer) error {
	first, err := both.Recv()
	if err != nil || first.GetConfig().GetJob() != "jobs/1" {
		return errors.Join(err, errors.New("no config"))
	}
	answer, err := l.begin()
	for taken := 0; err == nil; {
		if err = both.Send(answer); err != nil {
			return err
		}
		request, end := both.Recv()
		if end != nil {
			return nil
		}
		answer, err = l.take(request, &taken)
	}
	return err
}

func (l *listener) begin() (*callsdv1.StreamCaptionsResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls++
	if len(l.refusals) > 0 {
		err := l.refusals[0]
		l.refusals = l.refusals[1:]
		return nil, err
	}
	return l.acks(), nil
}

func (l *listener) take(request *callsdv1.StreamCaptionsRequest, taken *int) (*callsdv1.StreamCaptionsResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	chunks := request.GetBatch().GetChunks()
	if one := request.GetAudio(); one != nil {
		chunks = append(chunks, one)
	}
	for _, chunk := range chunks {
		speaker, size := chunk.GetSpeaker(), len(chunk.GetData())
		if *taken++; *taken == l.lifetime {
			l.forget(size)
			return nil, away
		}
		if chunk.GetSequence() <= l.count[speaker] {
			continue
		}
		if chunk.GetSequence() != l.count[speaker]+1 {
			return nil, refusal(codes.InvalidArgument, "FIELD_INVALID", nil)
		}
		l.count[speaker]++
		l.received[speaker] = append(l.received[speaker], chunk.GetData()...)
		if upTo := len(l.received[speaker]) - l.delay*size; upTo > len(l.worked[speaker]) && !l.isDeaf {
			l.worked[speaker] = l.received[speaker][:upTo]
		}
	}
	if event := request.GetEvent(); event.GetType() == muted && !l.isDeaf {
		l.worked[event.GetSpeaker()] = l.received[event.GetSpeaker()]
	}
	return l.acks(), nil
}

// tenth is a tenth of a second of sound, all of whose samples tell their place.
func tenth(number int) []byte {
	data := make([]byte, 0, 3200)
	for sample := range 1600 {
		data = binary.LittleEndian.AppendUint16(data, uint16(number*1600+sample))
	}
	return data
}

func stream(t *testing.T, client *Client) *CaptionSender {
	t.Helper()
	sender, err := client.Captions().Stream(limited(t), "1", s16le)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sender.Close() })
	return sender
}

// All sound arrives once and in order, however often the daemon is killed in between.
func TestNoSoundLost(t *testing.T) {
	l := newListener()
	l.lifetime, l.delay = 11, 2
	sender := stream(t, serve(t, &script{streamCaptions: l.listen}))
	expected := map[string][]byte{}
	buffer := make([]byte, 3200)
	for number := range 40 {
		for _, speaker := range []string{"a", "b"} {
			copy(buffer, tenth(number)) // the caller's own, used again for the next
			expected[speaker] = append(expected[speaker], buffer...)
			start := time.Duration(number) * 100 * time.Millisecond
			if err := sender.Send(limited(t), speaker, buffer, start); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := sender.Finish(limited(t)); err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.calls < 5 {
		t.Fatalf("only %d calls", l.calls)
	}
	for speaker, data := range expected {
		equal(t, string(l.worked[speaker]), string(data))
	}
	if err := sender.Send(limited(t), "a", tenth(0), 0); !errors.Is(err, ErrClosed) {
		t.Fatalf("after the end: %v", err)
	}
}

// Send waits while a minute of a speaker's sound waits to be worked off, for as long as it may.
func TestSendWaits(t *testing.T) {
	l := newListener()
	l.isDeaf = true
	sender := stream(t, serve(t, &script{streamCaptions: l.listen}))
	if err := sender.Send(limited(t), "a", make([]byte, 60*32_000), 0); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := sender.Send(ctx, "a", tenth(600), time.Minute)
	as[*DeadlineError](t, err)
	equal(t, sender.Lag(), time.Minute)
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	as[*DeadlineError](t, sender.Finish(ctx))
}

// A job that is not open yet after a restart is waited for; one that has ended is the end.
func TestSenderRefused(t *testing.T) {
	early := refusal(codes.FailedPrecondition, "JOB_STATE_CONFLICT", nil, retryAfter(time.Millisecond))
	over := refusal(codes.FailedPrecondition, "JOB_STATE_CONFLICT", nil)
	for _, last := range []error{over, refusal(codes.Aborted, "STREAM_REPLACED", nil)} {
		l := newListener()
		l.lifetime = 1
		sender := stream(t, serve(t, &script{streamCaptions: l.listen}))
		l.mu.Lock()
		l.refusals = []error{early, early, last}
		l.mu.Unlock()
		sender.Send(limited(t), "a", tenth(0), 0)
		err := sender.Finish(limited(t))
		equal(t, as[*ConflictError](t, err).Reason, inside(fromRPC(t.Context(), last)).Reason)
		equal(t, sender.Muted("a"), err)
		l.mu.Lock()
		equal(t, l.calls, 4)
		l.mu.Unlock()
	}
	l := newListener()
	l.refusals = []error{over}
	client := serve(t, &script{streamCaptions: l.listen})
	_, err := client.Captions().Stream(limited(t), "1", s16le)
	equal(t, as[*ConflictError](t, err).Reason, "JOB_STATE_CONFLICT")
}

// A sender ends with its client.
func TestSenderOfClosedClient(t *testing.T) {
	l := newListener()
	client := serve(t, &script{streamCaptions: l.listen})
	sender := stream(t, client)
	client.Close()
	<-sender.stopped
	if err := sender.Joined("a", "Ada"); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}

func final(sequence int64) *callsdv1.WatchCaptionsResponse {
	caption := &callsdv1.Caption{IsFinal: true, Sequence: sequence}
	return &callsdv1.WatchCaptionsResponse{Message: &callsdv1.WatchCaptionsResponse_Caption{Caption: caption}}
}

var interim = &callsdv1.WatchCaptionsResponse{
	Message: &callsdv1.WatchCaptionsResponse_Caption{Caption: &callsdv1.Caption{Text: "so"}},
}

// captioned is what a viewer is told, and what was asked for, when calls are answered so.
func captioned(t *testing.T, resume *int64, ends []error, calls ...[]*callsdv1.WatchCaptionsResponse) (string, string, error) {
	t.Helper()
	var asked, told []string
	client := serve(t, &script{watchCaptions: func(
		r *callsdv1.WatchCaptionsRequest, out grpc.ServerStreamingServer[callsdv1.WatchCaptionsResponse],
	) error {
		at := len(asked)
		after := "last"
		if r.ResumeSequence != nil {
			after = fmt.Sprint(r.GetResumeSequence())
		}
		asked = append(asked, after)
		for _, one := range calls[at] {
			if err := out.Send(one); err != nil {
				return err
			}
		}
		return ends[at]
	}})
	request := &callsdv1.WatchCaptionsRequest{Job: "1", ResumeSequence: resume}
	err := client.Captions().Watch(limited(t), request, func(r *callsdv1.WatchCaptionsResponse) error {
		told = append(told, fmt.Sprint(r.GetCaption().GetSequence()))
		return nil
	})
	return strings.Join(told, " "), strings.Join(asked, " "), err
}

type responses = []*callsdv1.WatchCaptionsResponse

// Each final caption is told once, over cuts, to the end of the job.
func TestFinalsOnce(t *testing.T) {
	early := refusal(codes.FailedPrecondition, "JOB_STATE_CONFLICT", nil, retryAfter(time.Millisecond))
	told, asked, err := captioned(t, proto.Int64(0), []error{away, early, away, nil},
		responses{final(1), interim, final(2)}, responses{}, responses{final(2), final(3)}, responses{final(4)})
	equal(t, err, nil)
	equal(t, told, "1 0 2 3 4")
	equal(t, asked, "0 2 2 3")
}

// Without a number it begins with the last ones; where there was none before a cut, all are news.
func TestFinalsFromNow(t *testing.T) {
	told, asked, err := captioned(t, nil, []error{away, away, nil},
		responses{interim}, responses{final(1)}, responses{final(2)})
	equal(t, err, nil)
	equal(t, told, "0 1 2")
	equal(t, asked, "last 0 1")
	told, _, err = captioned(t, nil, []error{nil}, responses{interim, final(35), final(36)})
	equal(t, err, nil)
	equal(t, told, "0 35 36")
}

// A caption that is missing is an error, and not passed over.
func TestFinalMissing(t *testing.T) {
	told, _, err := captioned(t, proto.Int64(0), []error{nil}, responses{final(1), final(3)})
	as[*IntegrityError](t, err)
	equal(t, told, "1")
}
