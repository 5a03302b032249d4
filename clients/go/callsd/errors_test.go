// SPDX-License-Identifier: Apache-2.0

package callsd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	callsdv1 "github.com/callsd/callsd/clients/go/callsd/v1"
)

// refusing is the error of a CreateJob that is answered with an error.
func refusing(t *testing.T, answer error) error {
	t.Helper()
	client := serve(t, &script{
		create: func(context.Context, *callsdv1.CreateJobRequest) (*callsdv1.CreateJobResponse, error) {
			return nil, answer
		},
	})
	_, err := client.Jobs().Create(limited(t), &callsdv1.CreateJobRequest{})
	return err
}

// A refusal for want of capacity tells what is needed, what there is, and when to come back.
func TestCapacity(t *testing.T) {
	metadata := map[string]string{"required": "2", "available": "-0.5"}
	err := refusing(t, refusal(codes.ResourceExhausted, "CPU_EXHAUSTED", metadata, retryAfter(5*time.Second)))
	full := as[*CapacityError](t, fmt.Errorf("wrapped: %w", err))
	equal(t, full.Required, 2)
	equal(t, full.Available, -0.5)
	equal(t, full.RetryAfter, 5*time.Second)
	equal(t, full.Reason, "CPU_EXHAUSTED")
	e := as[*Error](t, err)
	equal(t, e.Code, codes.ResourceExhausted)
	equal(t, e.Metadata["required"], "2")
	equal(t, err.Error(), "callsd: refused [CPU_EXHAUSTED]")
	equal(t, status.Code(err), codes.ResourceExhausted)
}

// A message that is too large is no lack of capacity.
func TestNoCapacity(t *testing.T) {
	err := refusing(t, status.Error(codes.ResourceExhausted, "message too large"))
	var full *CapacityError
	if errors.As(err, &full) {
		t.Fatal("a capacity error without a reason of the daemon")
	}
	equal(t, as[*Error](t, err).Reason, "")
	equal(t, err.Error(), "callsd: message too large [RESOURCE_EXHAUSTED]")
}

// All wrong fields of a request are there.
func TestFields(t *testing.T) {
	bad := &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
		{Field: "job.labels", Description: "too many"}, {Field: "request_id", Description: "no UUID"},
	}}
	err := refusing(t, refusal(codes.InvalidArgument, "FIELD_INVALID", nil, bad))
	violations := as[*InvalidRequestError](t, err).FieldViolations
	equal(t, len(violations), 2)
	equal(t, violations[1], FieldViolation{Field: "request_id", Description: "no UUID"})
}

// Each code has its type, whatever the reason is.
func TestTypes(t *testing.T) {
	isA := func(err error, target any) bool { return errors.As(err, target) }
	for code, target := range map[codes.Code]any{
		codes.InvalidArgument:    new(*InvalidRequestError),
		codes.NotFound:           new(*NotFoundError),
		codes.Unauthenticated:    new(*AccessError),
		codes.PermissionDenied:   new(*AccessError),
		codes.ResourceExhausted:  new(*CapacityError),
		codes.FailedPrecondition: new(*ConflictError),
		codes.Aborted:            new(*ConflictError),
		codes.AlreadyExists:      new(*ConflictError),
		codes.OutOfRange:         new(*OutOfRangeError),
		codes.Unavailable:        new(*UnavailableError),
		codes.DeadlineExceeded:   new(*DeadlineError),
		codes.DataLoss:           new(*IntegrityError),
		codes.Internal:           new(*Error),
	} {
		err := fromRPC(t.Context(), refusal(code, "NEWER_THAN_THIS", nil))
		if !isA(err, target) || inside(err).Reason != "NEWER_THAN_THIS" {
			t.Errorf("%v became %T", code, err)
		}
	}
}

// After the last try there is the daemon's own answer, or the address that nobody answers at.
func TestLastTry(t *testing.T) {
	err := refusing(t, refusal(codes.Unavailable, "DRAINING", nil, retryAfter(time.Millisecond)))
	away := as[*UnavailableError](t, err)
	equal(t, away.Message, "refused")
	equal(t, away.Reason, "DRAINING")
	equal(t, away.RetryAfter, time.Millisecond)

	client, _ := Dial("unix:/nowhere/callsd.sock")
	defer client.Close()
	_, err = client.Jobs().Get(limited(t), "1")
	const expected = "unix:/nowhere/callsd.sock does not answer: connection error"
	if message := as[*UnavailableError](t, err).Message; !strings.HasPrefix(message, expected) {
		t.Fatal(message)
	}
}

// Details of another domain are not taken for the daemon's.
func TestDomain(t *testing.T) {
	st, _ := status.New(codes.Unavailable, "elsewhere").WithDetails(
		&errdetails.ErrorInfo{Reason: "DRAINING", Domain: "proxy.example"})
	equal(t, inside(fromRPC(t.Context(), st.Err())).Reason, "")
}

// A call without an answer ends with the client's timeout, or with the context.
func TestTime(t *testing.T) {
	client := serve(t, &script{
		get: func(ctx context.Context, _ *callsdv1.GetJobRequest) (*callsdv1.GetJobResponse, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
	}, WithTimeout(50*time.Millisecond))
	_, err := client.Jobs().Get(t.Context(), "1")
	as[*DeadlineError](t, err)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v is not context.DeadlineExceeded", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = client.Jobs().Get(ctx, "1")
	equal(t, as[*Error](t, err).Code, codes.Canceled)
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("%v is not context.Canceled", err)
	}
}

// A client that is closed says so.
func TestClosed(t *testing.T) {
	client := serve(t, &script{})
	client.Close()
	if _, err := client.Jobs().Get(limited(t), "1"); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	err := client.Jobs().Watch(limited(t), nil, nil, func(Event) error { return nil })
	if !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}
