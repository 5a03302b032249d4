// SPDX-License-Identifier: Apache-2.0

package callsd

import (
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	callsdv1 "github.com/callsd/callsd/clients/go/callsd/v1"
)

const (
	// Positions are samples at this rate, however the sound is coded.
	sampleRate     = 16_000
	sampleDuration = time.Second / sampleRate

	// The most that the API takes in one chunk.
	maxChunkBytes = 32 << 10

	sampleBytes = 2
)

// Sound is some sound of one speaker.
type Sound struct {
	Speaker string
	// Data is whole samples of s16le, of any length, or one Opus packet.
	Data []byte
	// Start is when it was made, from the start of the call.
	Start time.Duration
}

// piece is sound of at most one chunk's size, and the samples that it lasts.
type piece struct {
	speaker     string
	data        []byte
	startSample int64
	samples     int64
}

// pieces copies sound and cuts it to the size of chunks.
func pieces(sound Sound, encoding callsdv1.AudioEncoding) ([]piece, error) {
	data := append([]byte(nil), sound.Data...)
	start := toSample(sound.Start)
	if encoding == callsdv1.AudioEncoding_AUDIO_ENCODING_OPUS {
		samples, err := opusSamples(data)
		return []piece{{sound.Speaker, data, start, samples}}, err
	}
	if len(data)%sampleBytes != 0 {
		return nil, invalidSound("%d bytes of s16le end within a sample", len(data))
	}
	var cut []piece
	for len(data) > 0 {
		size := min(len(data), maxChunkBytes)
		samples := int64(size / sampleBytes)
		cut = append(cut, piece{sound.Speaker, data[:size], start, samples})
		data, start = data[size:], start+samples
	}
	return cut, nil
}

// opusSamples is how long an Opus packet lasts. Source: RFC 6716, section 3.1.
func opusSamples(packet []byte) (int64, error) {
	if len(packet) == 0 || packet[0]&3 == 3 && len(packet) < 2 {
		return 0, invalidSound("an empty or cut Opus packet")
	}
	var frame time.Duration
	switch mode := packet[0] >> 3; {
	case mode < 12: // SILK
		frame = [...]time.Duration{10, 20, 40, 60}[mode&3] * time.Millisecond
	case mode < 16: // hybrid
		frame = [...]time.Duration{10, 20}[mode&1] * time.Millisecond
	default: // CELT
		frame = 2500 * time.Microsecond << (mode & 3)
	}
	frames := [...]int64{1, 2, 2, 0}[packet[0]&3]
	if packet[0]&3 == 3 {
		frames = int64(packet[1] & 0x3f)
	}
	if frames == 0 {
		return 0, invalidSound("an Opus packet without a frame")
	}
	return frames * toSample(frame), nil
}

func toSample(offset time.Duration) int64 {
	return int64((offset + sampleDuration/2) / sampleDuration)
}

func toOffset(sample int64) *durationpb.Duration {
	return durationpb.New(time.Duration(sample) * sampleDuration)
}

func invalidSound(format string, values ...any) error {
	return typed(&Error{
		Code:    codes.InvalidArgument,
		Reason:  "FIELD_INVALID",
		Message: fmt.Sprintf(format, values...),
	})
}
