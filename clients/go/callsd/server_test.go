// SPDX-License-Identifier: Apache-2.0

package callsd

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	callsdv1 "github.com/callsd/callsd/clients/go/callsd/v1"
)

// testTimeout is the longest that a test may wait for anything.
const testTimeout = 20 * time.Second

// What a developer's own environment says is not meant for the tests.
func TestMain(m *testing.M) {
	for _, name := range []string{"CALLSD_ADDRESS", "CALLSD_TOKEN_FILE", "CALLSD_CA_FILE", "CALLSD_SOCKET_OWNER"} {
		os.Unsetenv(name)
	}
	m.Run()
}

// script is a daemon that does what a test says; each RPC has a function.
type script struct {
	callsdv1.UnimplementedJobServiceServer
	callsdv1.UnimplementedMediaServiceServer
	callsdv1.UnimplementedCaptionServiceServer

	create         func(context.Context, *callsdv1.CreateJobRequest) (*callsdv1.CreateJobResponse, error)
	get            func(context.Context, *callsdv1.GetJobRequest) (*callsdv1.GetJobResponse, error)
	watch          func(*callsdv1.WatchJobsRequest, grpc.ServerStreamingServer[callsdv1.WatchJobsResponse]) error
	readLog        func(*callsdv1.ReadLogRequest, grpc.ServerStreamingServer[callsdv1.ReadLogResponse]) error
	fetch          func(*callsdv1.FetchArtifactRequest, grpc.ServerStreamingServer[callsdv1.FetchArtifactResponse]) error
	upload         func(callsdv1.MediaService_UploadMediaServer) error
	getUpload      func(*callsdv1.GetUploadRequest) (*callsdv1.GetUploadResponse, error)
	streamCaptions func(callsdv1.CaptionService_StreamCaptionsServer) error
	watchCaptions  func(*callsdv1.WatchCaptionsRequest, grpc.ServerStreamingServer[callsdv1.WatchCaptionsResponse]) error
}

func (s *script) CreateJob(ctx context.Context, r *callsdv1.CreateJobRequest) (*callsdv1.CreateJobResponse, error) {
	return s.create(ctx, r)
}

func (s *script) GetJob(ctx context.Context, r *callsdv1.GetJobRequest) (*callsdv1.GetJobResponse, error) {
	return s.get(ctx, r)
}

func (s *script) WatchJobs(r *callsdv1.WatchJobsRequest, out grpc.ServerStreamingServer[callsdv1.WatchJobsResponse]) error {
	return s.watch(r, out)
}

func (s *script) ReadLog(r *callsdv1.ReadLogRequest, out grpc.ServerStreamingServer[callsdv1.ReadLogResponse]) error {
	return s.readLog(r, out)
}

func (s *script) FetchArtifact(r *callsdv1.FetchArtifactRequest, out grpc.ServerStreamingServer[callsdv1.FetchArtifactResponse]) error {
	return s.fetch(r, out)
}

func (s *script) UploadMedia(in callsdv1.MediaService_UploadMediaServer) error { return s.upload(in) }

func (s *script) GetUpload(_ context.Context, r *callsdv1.GetUploadRequest) (*callsdv1.GetUploadResponse, error) {
	return s.getUpload(r)
}

func (s *script) StreamCaptions(both callsdv1.CaptionService_StreamCaptionsServer) error {
	return s.streamCaptions(both)
}

func (s *script) WatchCaptions(r *callsdv1.WatchCaptionsRequest, out grpc.ServerStreamingServer[callsdv1.WatchCaptionsResponse]) error {
	return s.watchCaptions(r, out)
}

// serve has a script listen at a socket of its own, and returns a client of it.
func serve(t *testing.T, s *script, options ...Option) *Client {
	t.Helper()
	// Not t.TempDir(): a socket's path has at most 107 bytes.
	folder, err := os.MkdirTemp("", "callsd-")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(folder, "callsd.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	callsdv1.RegisterJobServiceServer(server, s)
	callsdv1.RegisterMediaServiceServer(server, s)
	callsdv1.RegisterCaptionServiceServer(server, s)
	go server.Serve(listener)
	client, err := Dial("unix:"+path, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		client.Close()
		server.Stop()
		os.RemoveAll(folder)
	})
	return client
}

// limited is a context that ends with the test's patience.
func limited(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

// refusal is a status as the daemon makes it.
func refusal(code codes.Code, reason string, metadata map[string]string, more ...protoadapt.MessageV1) error {
	info := &errdetails.ErrorInfo{Reason: reason, Domain: "callsd", Metadata: metadata}
	st, err := status.New(code, "refused").WithDetails(append([]protoadapt.MessageV1{info}, more...)...)
	if err != nil {
		panic(err)
	}
	return st.Err()
}

func retryAfter(delay time.Duration) protoadapt.MessageV1 {
	return &errdetails.RetryInfo{RetryDelay: durationpb.New(delay)}
}

// as is an error of a type that must be there.
func as[T error](t *testing.T, err error) T {
	t.Helper()
	var found T
	if !errors.As(err, &found) {
		t.Fatalf("the error is %T (%v), not %T", err, err, found)
	}
	return found
}

func equal[T comparable](t *testing.T, actual, expected T) {
	t.Helper()
	if actual != expected {
		t.Fatalf("%v, expected %v", actual, expected)
	}
}
