// SPDX-License-Identifier: Apache-2.0

package callsd

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
)

const (
	// A dead peer is noticed after 40 s. The daemon accepts a ping every 10 s.
	keepaliveTime    = 30 * time.Second
	keepaliveTimeout = 10 * time.Second

	// A daemon that restarts is back within seconds: gRPC's own 1 s … 120 s would hide it.
	firstReconnect = 100 * time.Millisecond
	maxReconnect   = 2 * time.Second
	connectTimeout = 10 * time.Second

	// The daemon sends at most 256 KiB a message; the rest is room for a page of large jobs.
	maxReceiveBytes = 16 << 20

	// What a stream may hold unread on a watching connection. gRPC's growing window lets the daemon
	// send megabytes to a reader that never reads, which hides a slow reader from both ends.
	watchWindowBytes = 64 << 10
)

// Only what may safely happen twice is tried again: reads, and CreateJob by its request id.
const serviceConfig = `{
  "methodConfig": [{
    "name": [
      {"service": "callsd.v1.JobService", "method": "CreateJob"},
      {"service": "callsd.v1.JobService", "method": "GetJob"},
      {"service": "callsd.v1.JobService", "method": "ListJobs"},
      {"service": "callsd.v1.MediaService", "method": "GetUpload"},
      {"service": "callsd.v1.ModelService", "method": "ListModels"},
      {"service": "callsd.v1.ServerService", "method": "GetServerInfo"},
      {"service": "callsd.v1.ServerService", "method": "GetCapacity"}
    ],
    "retryPolicy": {
      "maxAttempts": 4,
      "initialBackoff": "0.1s",
      "maxBackoff": "2s",
      "backoffMultiplier": 2,
      "retryableStatusCodes": ["UNAVAILABLE"]
    }
  }]
}`

// watching are the options of the connection that watches have for themselves: a slow watcher is
// noticed at once, and the other connection keeps the growing window that downloads need.
var watching = []grpc.DialOption{grpc.WithStaticStreamWindowSize(watchWindowBytes)}

func (c *Client) connect(more ...grpc.DialOption) (*grpc.ClientConn, error) {
	credentials, err := c.endpoint.credentials()
	if err != nil {
		return nil, err
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(credentials),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithDisableServiceConfig(),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: keepaliveTime, Timeout: keepaliveTimeout,
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: grpcbackoff.Config{
				BaseDelay: firstReconnect, Multiplier: 2, Jitter: 0.2, MaxDelay: maxReconnect,
			},
			MinConnectTimeout: connectTimeout,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReceiveBytes)),
		grpc.WithUnaryInterceptor(c.interceptUnary),
		grpc.WithStreamInterceptor(c.interceptStream),
	}
	if c.endpoint.isLocal() {
		options = append(options, grpc.WithNoProxy())
	}
	connection, err := grpc.NewClient(c.endpoint.target(), append(options, more...)...)
	if err != nil {
		return nil, settings("%s: %v", c.endpoint.address, err)
	}
	return connection, nil
}

// interceptUnary gives a request its token and its deadline, and types its error.
func (c *Client) interceptUnary(
	ctx context.Context, method string, request, reply any, connection *grpc.ClientConn,
	invoke grpc.UnaryInvoker, options ...grpc.CallOption,
) error {
	if _, isSet := ctx.Deadline(); !isSet {
		limited, cancel := context.WithTimeout(ctx, c.timeout)
		defer cancel()
		ctx = limited
	}
	authorized, err := c.endpoint.authorize(ctx)
	if err != nil {
		return err
	}
	err = invoke(authorized, method, request, reply, connection, options...)
	if err == nil {
		c.answered.Store(true)
	}
	return c.typed(ctx, err)
}

// interceptStream gives a stream its token and types its errors.
func (c *Client) interceptStream(
	ctx context.Context, description *grpc.StreamDesc, connection *grpc.ClientConn, method string,
	open grpc.Streamer, options ...grpc.CallOption,
) (grpc.ClientStream, error) {
	authorized, err := c.endpoint.authorize(ctx)
	if err != nil {
		return nil, err
	}
	stream, err := open(authorized, description, connection, method, options...)
	if err != nil {
		return nil, c.typed(ctx, err)
	}
	return &typedStream{stream, c}, nil
}

func (c *Client) typed(ctx context.Context, err error) error {
	if err != nil && c.closed.Load() {
		return ErrClosed
	}
	err = fromRPC(ctx, err)
	if e := inside(err); e != nil && e.Code == codes.Unavailable && e.Reason == "" {
		e.Message = c.endpoint.address + " does not answer: " + e.Message
	}
	return err
}

type typedStream struct {
	grpc.ClientStream
	client *Client
}

// RecvMsg tells the stream's error; SendMsg says io.EOF, for which gRPC refers to here.
func (s *typedStream) RecvMsg(message any) error {
	err := s.ClientStream.RecvMsg(message)
	if err == nil {
		s.client.answered.Store(true)
	}
	if errors.Is(err, io.EOF) {
		return err
	}
	return s.client.typed(s.Context(), err)
}
