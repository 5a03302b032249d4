// SPDX-License-Identifier: Apache-2.0

package callsd

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"os"
	"path/filepath"

	callsdv1 "github.com/callsd/callsd/clients/go/callsd/v1"
)

// Artifacts are files that jobs have made; a job that has SUCCEEDED lists its own.
type Artifacts struct{ client *Client }

// Fetch stores one artifact of a job, such as "transcript.vtt", as path: whole and with the
// announced SHA-256, or not at all. A file that is there is replaced. A broken download goes on
// from the byte where it was.
func (a *Artifacts) Fetch(ctx context.Context, job, file, path string) (*callsdv1.Artifact, error) {
	part, err := createBeside(path)
	if err != nil {
		return nil, err
	}
	defer os.Remove(part.Name())
	defer part.Close()
	download := &download{
		backoff: a.client.backoff(),
		name:    jobName(job) + "/artifacts/" + file,
		to:      part,
		hash:    sha256.New(),
	}
	stub := callsdv1.NewJobServiceClient(a.client.conn)
	if err := follow(ctx, stub.FetchArtifact, download); err != nil {
		return nil, err
	}
	if err := download.verify(); err != nil {
		return nil, err
	}
	if err := part.Sync(); err != nil {
		return nil, err
	}
	if err := part.Close(); err != nil {
		return nil, err
	}
	return download.artifact, os.Rename(part.Name(), path)
}

// createBeside makes a file with a name of its own in path's directory, as a rename does not cross
// file systems, and with the mode that the umask allows.
func createBeside(path string) (*os.File, error) {
	directory, name := filepath.Split(path)
	name = filepath.Join(directory, "."+name+"."+rand.Text()+".part")
	return os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
}

// download is one artifact on its way.
type download struct {
	*backoff
	name     string
	to       *os.File
	hash     hash.Hash
	offset   int64
	artifact *callsdv1.Artifact
}

func (d *download) request() *callsdv1.FetchArtifactRequest {
	return &callsdv1.FetchArtifactRequest{Name: d.name, Offset: d.offset}
}

func (d *download) receive(response *callsdv1.FetchArtifactResponse) error {
	if d.artifact == nil {
		d.artifact = response.GetArtifact()
	}
	if response.GetOffset() != d.offset {
		return mismatch("%s: the daemon sent byte %d where %d was due",
			d.name, response.GetOffset(), d.offset)
	}
	if _, err := d.to.Write(response.GetData()); err != nil {
		return err
	}
	d.hash.Write(response.GetData())
	d.offset += int64(len(response.GetData()))
	return nil
}

func (d *download) isComplete() bool {
	return d.artifact != nil && d.offset >= d.artifact.GetSizeBytes()
}

func (d *download) verify() error {
	if d.offset != d.artifact.GetSizeBytes() ||
		hex.EncodeToString(d.hash.Sum(nil)) != d.artifact.GetSha256() {
		return mismatch("%s: the bytes received do not have the announced hash", d.name)
	}
	return nil
}
