// SPDX-License-Identifier: Apache-2.0

package callsd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"time"

	"google.golang.org/grpc/codes"

	callsdv1 "github.com/callsd/callsd/clients/go/callsd/v1"
)

// Bytes in one message of an upload: the most that the API allows.
const uploadChunkBytes = 256 << 10

// Media is sound on its way to jobs, for clients that share no file system with the daemon.
type Media struct{ client *Client }

func (m *Media) stub() callsdv1.MediaServiceClient {
	return callsdv1.NewMediaServiceClient(m.client.conn)
}

// Upload sends a file, which must not change meanwhile; put the upload's name in a track. A broken
// upload goes on from the byte where it was.
func (m *Media) Upload(ctx context.Context, path string) (*callsdv1.Upload, error) {
	return m.Resume(ctx, newUUID(), path)
}

// Resume is Upload under an id of your own, a UUID; it goes on with an upload that was begun with
// the same id and file before, be it by an earlier run of the program.
func (m *Media) Resume(ctx context.Context, id, path string) (*callsdv1.Upload, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	start, err := describe(id, file)
	if err != nil {
		return nil, err
	}
	upload := &upload{backoff: m.client.backoff(), stub: m.stub(), start: start, file: file}
	for {
		done, broken := upload.try(ctx)
		if broken == nil || ctx.Err() != nil {
			return done, broken
		}
		delay, err := upload.failed(broken)
		if err != nil {
			return nil, err
		}
		if err := sleep(ctx, delay, broken); err != nil {
			return nil, err
		}
	}
}

// Delete removes an upload that no job needs.
func (m *Media) Delete(ctx context.Context, upload string) error {
	_, err := m.stub().DeleteUpload(ctx, &callsdv1.DeleteUploadRequest{Name: upload})
	return err
}

// describe reads all of a file for its hash.
func describe(id string, file *os.File) (*callsdv1.UploadStart, error) {
	hash := sha256.New()
	size, err := io.Copy(hash, file)
	if err != nil {
		return nil, err
	}
	if size == 0 {
		return nil, typed(&Error{
			Code:    codes.InvalidArgument,
			Reason:  "INPUT_INVALID",
			Message: file.Name() + " is empty: there is no sound in it to send",
		})
	}
	sum := hex.EncodeToString(hash.Sum(nil))
	return &callsdv1.UploadStart{UploadId: id, SizeBytes: size, Sha256: sum}, nil
}

// upload is one file on its way, over as many requests as it takes.
type upload struct {
	*backoff
	stub  callsdv1.MediaServiceClient
	start *callsdv1.UploadStart
	file  *os.File
}

// try makes one request; the upload is complete when it returns without error.
func (u *upload) try(ctx context.Context) (*callsdv1.Upload, error) {
	// Also before the first one, as the id may be that of an upload begun earlier.
	found, err := u.find(ctx)
	if err != nil || found.GetComplete() {
		return found, err
	}
	if _, err := u.file.Seek(found.GetReceivedBytes(), io.SeekStart); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	call, err := u.stub.UploadMedia(ctx)
	if err != nil {
		return nil, err
	}
	if err := u.send(call.Send, found.GetReceivedBytes()); err != nil {
		return nil, err
	}
	answer, err := call.CloseAndRecv()
	return answer.GetUpload(), err
}

// find is what the daemon has of the upload; nil if it knows nothing of it.
func (u *upload) find(ctx context.Context) (*callsdv1.Upload, error) {
	name := "uploads/" + u.start.GetUploadId()
	answer, err := u.stub.GetUpload(ctx, &callsdv1.GetUploadRequest{Name: name})
	var unknown *NotFoundError
	if err != nil && !errors.As(err, &unknown) {
		return nil, err
	}
	u.answered()
	found := answer.GetUpload()
	if found != nil &&
		(found.GetSizeBytes() != u.start.GetSizeBytes() || found.GetSha256() != u.start.GetSha256()) {
		return nil, mismatch("%s is an upload of another file than %s", name, u.file.Name())
	}
	return found, nil
}

// send sends the start and the bytes from an offset on. Where the stream breaks it ends without an
// error: the answer tells.
func (u *upload) send(send func(*callsdv1.UploadMediaRequest) error, offset int64) error {
	err := send(&callsdv1.UploadMediaRequest{
		Message: &callsdv1.UploadMediaRequest_Start{Start: u.start},
	})
	for err == nil {
		buffer, size := make([]byte, uploadChunkBytes), 0
		size, err = io.ReadFull(u.file, buffer)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		chunk := &callsdv1.UploadChunk{Offset: offset, Data: buffer[:size]}
		err = send(&callsdv1.UploadMediaRequest{
			Message: &callsdv1.UploadMediaRequest_Chunk{Chunk: chunk},
		})
		offset += int64(size)
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// failed: for a while after a cut the daemon may still hold the lost stream; it refuses this one, or
// has stored more since it was asked how much has arrived.
func (u *upload) failed(err error) (time.Duration, error) {
	isPassing := false
	if e := inside(err); e != nil {
		_, isBehind := e.Metadata["received_bytes"]
		isPassing = isBehind || e.Reason == "UPLOAD_BUSY"
	}
	return u.retry(err, isPassing)
}
