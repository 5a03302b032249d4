// SPDX-License-Identifier: Apache-2.0

package callsd

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	callsdv1 "github.com/callsd/callsd/clients/go/callsd/v1"
)

// content is 600 kB that are nowhere the same: three messages.
func content() []byte {
	var data []byte
	for sum := sha256.Sum256(nil); len(data) < 600_000; sum = sha256.Sum256(sum[:]) {
		data = append(data, sum[:]...)
	}
	return data[:600_000]
}

func hexSum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// fetching hands out data, and breaks off in the middle of the first call.
func fetching(data []byte, sum string, asked *[]int64) *script {
	return &script{fetch: func(
		r *callsdv1.FetchArtifactRequest, out grpc.ServerStreamingServer[callsdv1.FetchArtifactResponse],
	) error {
		*asked = append(*asked, r.GetOffset())
		artifact := &callsdv1.Artifact{Name: r.GetName(), SizeBytes: int64(len(data)), Sha256: sum}
		for at := int(r.GetOffset()); at < len(data); at += 100_000 {
			if at == 300_000 && len(*asked) == 1 {
				return away
			}
			err := out.Send(&callsdv1.FetchArtifactResponse{
				Artifact: artifact, Offset: int64(at), Data: data[at:min(at+100_000, len(data))],
			})
			if err != nil {
				return err
			}
			artifact = nil
		}
		return nil
	}}
}

// A download goes on from the byte where it was cut, and is whole.
func TestFetch(t *testing.T) {
	data, asked := content(), []int64{}
	client := serve(t, fetching(data, hexSum(data), &asked))
	path := filepath.Join(t.TempDir(), "a.vtt")
	write(t, path, "an older one")
	artifact, err := client.Artifacts().Fetch(limited(t), "1", "a.vtt", path)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, artifact.GetName(), "jobs/1/artifacts/a.vtt")
	found, err := os.ReadFile(path)
	equal(t, err, nil)
	equal(t, bytes.Equal(found, data), true)
	equal(t, len(asked), 2)
	equal(t, asked[1], 300_000)
}

// Bytes with another hash than was announced are thrown away, and nothing is left behind.
func TestFetchDamaged(t *testing.T) {
	data, asked := content(), []int64{}
	client := serve(t, fetching(data, hexSum(data[1:]), &asked))
	folder := t.TempDir()
	_, err := client.Artifacts().Fetch(limited(t), "1", "a.vtt", filepath.Join(folder, "a.vtt"))
	as[*IntegrityError](t, err)
	left, err := os.ReadDir(folder)
	equal(t, err, nil)
	equal(t, len(left), 0)
}

// A log goes on from the byte where it was cut, to its end, and leaves the request as it was given.
func TestReadLog(t *testing.T) {
	const log = "one\ntwo\nthree\n"
	var asked []int64
	client := serve(t, &script{readLog: func(
		r *callsdv1.ReadLogRequest, out grpc.ServerStreamingServer[callsdv1.ReadLogResponse],
	) error {
		asked = append(asked, r.GetOffset())
		end, answer := len(log), error(nil)
		if len(asked) == 1 {
			end, answer = 8, away
		}
		data := []byte(log[r.GetOffset():end])
		return errors.Join(out.Send(&callsdv1.ReadLogResponse{Offset: r.GetOffset(), Data: data}), answer)
	}})
	request := &callsdv1.ReadLogRequest{Name: "1", Offset: 4, Follow: true}
	var read strings.Builder
	equal(t, client.Jobs().ReadLog(limited(t), request, &read), nil)
	equal(t, read.String(), "two\nthree\n")
	equal(t, fmt.Sprint(asked), "[4 8]")
	equal(t, request.GetOffset(), 4)
}

// mediaStore takes uploads, and breaks off in the middle of the first call.
type mediaStore struct {
	start    *callsdv1.UploadStart
	received []byte
	calls    int
	busy     int
}

func (m *mediaStore) script() *script { return &script{upload: m.take, getUpload: m.tell} }

func (m *mediaStore) upload() *callsdv1.Upload {
	return &callsdv1.Upload{
		Name:          "uploads/" + m.start.GetUploadId(),
		ReceivedBytes: int64(len(m.received)),
		SizeBytes:     m.start.GetSizeBytes(),
		Sha256:        m.start.GetSha256(),
		Complete:      int64(len(m.received)) == m.start.GetSizeBytes(),
	}
}

func (m *mediaStore) tell(*callsdv1.GetUploadRequest) (*callsdv1.GetUploadResponse, error) {
	if m.start == nil {
		return nil, refusal(codes.NotFound, "UPLOAD_NOT_FOUND", nil)
	}
	return &callsdv1.GetUploadResponse{Upload: m.upload()}, nil
}

func (m *mediaStore) take(in callsdv1.MediaService_UploadMediaServer) error {
	m.calls++
	first, err := in.Recv()
	if err != nil {
		return err
	}
	m.start = first.GetStart()
	if m.calls <= m.busy {
		return refusal(codes.Aborted, "UPLOAD_BUSY", nil)
	}
	for int64(len(m.received)) < m.start.GetSizeBytes() {
		one, err := in.Recv()
		if err != nil {
			return err
		}
		if one.GetChunk().GetOffset() != int64(len(m.received)) {
			return refusal(codes.InvalidArgument, "UPLOAD_MISMATCH", nil)
		}
		m.received = append(m.received, one.GetChunk().GetData()...)
		if m.calls == 1 {
			return away
		}
	}
	return in.SendAndClose(&callsdv1.UploadMediaResponse{Upload: m.upload()})
}

// An upload goes on from what the daemon has after a cut, and waits for a lost call to end there.
func TestUpload(t *testing.T) {
	data := content()
	path := filepath.Join(t.TempDir(), "a.ogg")
	write(t, path, string(data))
	for _, busy := range []int{0, 2} {
		store := &mediaStore{busy: busy}
		upload, err := serve(t, store.script()).Media().Upload(limited(t), path)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, upload.GetComplete(), true)
		equal(t, bytes.Equal(store.received, data), true)
		equal(t, store.calls, max(2, busy+1))
	}
}

// An upload under an id of one's own goes on where an earlier one was; of another file it is
// refused, and of an empty one, too.
func TestUploadResume(t *testing.T) {
	data := content()
	folder := t.TempDir()
	path := filepath.Join(folder, "a.ogg")
	write(t, path, string(data))
	store := &mediaStore{calls: 1, received: data[:500_000], start: &callsdv1.UploadStart{
		UploadId: "id", SizeBytes: int64(len(data)), Sha256: hexSum(data),
	}}
	media := serve(t, store.script()).Media()
	for range 2 {
		upload, err := media.Resume(limited(t), "id", path)
		equal(t, err, nil)
		equal(t, upload.GetName(), "uploads/id")
		equal(t, store.calls, 2)
	}
	equal(t, bytes.Equal(store.received, data), true)

	write(t, path, "another file")
	_, err := media.Resume(limited(t), "id", path)
	as[*IntegrityError](t, err)
	write(t, path, "")
	_, err = media.Upload(limited(t), path)
	equal(t, as[*InvalidRequestError](t, err).Reason, "INPUT_INVALID")
	if _, err = media.Upload(limited(t), filepath.Join(folder, "none")); !os.IsNotExist(err) {
		t.Fatal(err)
	}
}
