// SPDX-License-Identifier: Apache-2.0

package callsd

import (
	"context"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"

	callsdv1 "github.com/callsd/callsd/clients/go/callsd/v1"
)

const (
	defaultTimeout  = 10 * time.Second
	defaultPatience = 5 * time.Minute
)

// Client is a connection to one daemon; safe for use by several goroutines.
type Client struct {
	endpoint endpoint
	timeout  time.Duration
	patience time.Duration
	closed   atomic.Bool
	answered atomic.Bool

	conn      *grpc.ClientConn
	watchConn *grpc.ClientConn
}

// An Option of Dial.
type Option func(*Client)

// WithTokenFile names the file with the bearer token. Default: CALLSD_TOKEN_FILE, else the owner's
// token beside the socket. It is read for each request.
func WithTokenFile(path string) Option {
	return func(c *Client) { c.endpoint.tokenFile = path }
}

// WithCAFile names a PEM file with the certificates to trust for TLS. Default: CALLSD_CA_FILE, else
// the system's.
func WithCAFile(path string) Option {
	return func(c *Client) { c.endpoint.caFile = path }
}

// WithClientCertificate names the PEM files of a certificate, and of its key, to show when the
// other side asks for one. They are read for each connection.
func WithClientCertificate(certificateFile, keyFile string) Option {
	return func(c *Client) { c.endpoint.certificateFile, c.endpoint.keyFile = certificateFile, keyFile }
}

// WithTimeout sets the time for requests with one answer whose context has no deadline. Default: 10 s.
func WithTimeout(timeout time.Duration) Option {
	return func(c *Client) { c.timeout = timeout }
}

// WithPatience sets how long streams wait for a daemon that has answered and gone away, and how long
// a CaptionSender waits for room. Default: 5 min.
func WithPatience(patience time.Duration) Option {
	return func(c *Client) { c.patience = patience }
}

// Dial prepares to talk to a daemon; the first request connects.
//
// The address is unix:/path, tcp:HOST:PORT (this machine only) or tls:HOST:PORT. Without one,
// CALLSD_ADDRESS counts, else the socket of this user's or of the system's daemon. What is wrong
// with address or files is a [*SettingsError].
func Dial(address string, options ...Option) (*Client, error) {
	c := &Client{
		endpoint: endpoint{address: address},
		timeout:  defaultTimeout,
		patience: defaultPatience,
	}
	for _, option := range options {
		option(c)
	}
	var err error
	if c.endpoint, err = discover(c.endpoint); err != nil {
		return nil, err
	}
	if c.conn, err = c.connect(); err != nil {
		return nil, err
	}
	if c.watchConn, err = c.connect(watching...); err != nil {
		c.conn.Close()
		return nil, err
	}
	return c, nil
}

// Address is where the daemon is, as Dial found it out.
func (c *Client) Address() string { return c.endpoint.address }

// Close ends all requests and streams and disconnects; what is under way answers [ErrClosed]. Close a
// CaptionSender before.
func (c *Client) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	c.watchConn.Close()
	return c.conn.Close()
}

// Conn is for generated stubs and what this package has no method for:
//
//	models := callsdv1.NewModelServiceClient(client.Conn())
//
// Requests carry the token, have a deadline, and return typed errors.
func (c *Client) Conn() grpc.ClientConnInterface { return c.conn }

// Jobs are pieces of work.
func (c *Client) Jobs() *Jobs { return &Jobs{c} }

// Artifacts are files that jobs have made.
func (c *Client) Artifacts() *Artifacts { return &Artifacts{c} }

// Media is sound on its way to jobs.
func (c *Client) Media() *Media { return &Media{c} }

// Captions are the live sound of calls, and their words.
func (c *Client) Captions() *Captions { return &Captions{c} }

// IsServing tells whether the daemon says that it is well; needs no token. Whether it can be
// reached at all is for the error to tell.
func (c *Client) IsServing(ctx context.Context) (bool, error) {
	request := &grpc_health_v1.HealthCheckRequest{}
	answer, err := grpc_health_v1.NewHealthClient(c.conn).Check(ctx, request)
	return answer.GetStatus() == grpc_health_v1.HealthCheckResponse_SERVING, err
}

// Info returns versions, limits and features of the daemon.
func (c *Client) Info(ctx context.Context) (*callsdv1.ServerInfo, error) {
	request := &callsdv1.GetServerInfoRequest{}
	answer, err := callsdv1.NewServerServiceClient(c.conn).GetServerInfo(ctx, request)
	return answer.GetServerInfo(), err
}

// Capacity returns what the machine can carry now.
func (c *Client) Capacity(ctx context.Context) (*callsdv1.Capacity, error) {
	request := &callsdv1.GetCapacityRequest{}
	answer, err := callsdv1.NewServerServiceClient(c.conn).GetCapacity(ctx, request)
	return answer.GetCapacity(), err
}

// WatchCapacity calls fn with the capacity now, and then whenever it changes, until the context
// ends or fn returns an error, which it returns.
func (c *Client) WatchCapacity(ctx context.Context, fn func(*callsdv1.Capacity) error) error {
	stub := callsdv1.NewServerServiceClient(c.watchConn)
	return follow(ctx, stub.WatchCapacity, &capacityWatch{backoff: c.backoff(), fn: fn})
}

// capacityWatch has nothing to resume: each request begins with the newest capacity.
type capacityWatch struct {
	*backoff
	fn func(*callsdv1.Capacity) error
}

func (w *capacityWatch) request() *callsdv1.WatchCapacityRequest {
	return &callsdv1.WatchCapacityRequest{}
}

func (w *capacityWatch) receive(response *callsdv1.WatchCapacityResponse) error {
	return w.fn(response.GetCapacity())
}

func (c *Client) backoff() *backoff {
	b := &backoff{patience: c.patience}
	if c.answered.Load() {
		b.answeredAt = time.Now()
	}
	return b
}
