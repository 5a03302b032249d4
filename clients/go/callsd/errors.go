// SPDX-License-Identifier: Apache-2.0

package callsd

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	rpccode "google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const errorDomain = "callsd"

// ErrClosed is what everything answers after Close.
var ErrClosed = errors.New("callsd: closed")

// Error is a request that did not succeed. It comes inside one of the typed errors, which follow the
// status code, so that a reason newer than this package still has the right type; where no type
// fits, it comes alone.
type Error struct {
	// Code is the gRPC status code.
	Code codes.Code
	// Reason is a name of callsdv1.ErrorReason without its prefix; empty when the error comes from
	// gRPC itself, not from the daemon.
	Reason string
	// Message says what happened and what to do, for a person.
	Message string
	// Metadata has the facts in the message, for a program.
	Metadata map[string]string
	// RetryAfter is when it makes sense to try again; 0 if the daemon did not say.
	RetryAfter time.Duration
	// FieldViolations has all invalid fields of the request.
	FieldViolations []FieldViolation

	cause error
}

// FieldViolation is one invalid field of a request.
type FieldViolation struct {
	// Field is its path, such as "job.transcription.tracks[0].speaker".
	Field string
	// Description says what is wrong with it, for a person.
	Description string
}

func (e *Error) Error() string {
	reason := e.Reason
	if reason == "" {
		reason = rpccode.Code(e.Code).String()
	}
	return fmt.Sprintf("callsd: %s [%s]", e.Message, reason)
}

// Unwrap returns the context's error if that ended the request.
func (e *Error) Unwrap() error { return e.cause }

// GRPCStatus has status.FromError and status.Code understand the error.
func (e *Error) GRPCStatus() *status.Status { return status.New(e.Code, e.Message) }

// The embedded fields of the typed errors: an alias, as a field "Error" would hide the method.
type details = Error

// InvalidRequestError: the request is wrong in itself; FieldViolations lists what.
type InvalidRequestError struct{ *details }

// NotFoundError: there is no such job, artifact, upload, model or file.
type NotFoundError struct{ *details }

// AccessError: the token is missing, unknown or expired, or its scopes do not cover this.
type AccessError struct{ *details }

// CapacityError: the machine, or a limit set on it, has no room for this now. Reason says of what
// there is too little, RetryAfter when to come back.
type CapacityError struct {
	*details
	// Required is how much it takes: cores or bytes, as the reason says; 0 where that is not told.
	Required float64
	// Available is how much there is, in the same unit. It may be negative.
	Available float64
}

// ConflictError: a job, an etag, a model or an upload is not in the state that this needs.
type ConflictError struct{ *details }

// OutOfRangeError: a revision or an offset lies outside what the daemon has.
type OutOfRangeError struct{ *details }

// UnavailableError: the daemon cannot be reached, or is shutting down.
type UnavailableError struct{ *details }

// DeadlineError: the time given to the request has passed; what it asked for may still happen.
type DeadlineError struct{ *details }

// IntegrityError: bytes are not what they were, those that arrived or those of the server's database.
type IntegrityError struct{ *details }

// Unwrap returns the *Error inside.
func (e *InvalidRequestError) Unwrap() error { return e.details }

// Unwrap returns the *Error inside.
func (e *NotFoundError) Unwrap() error { return e.details }

// Unwrap returns the *Error inside.
func (e *AccessError) Unwrap() error { return e.details }

// Unwrap returns the *Error inside.
func (e *CapacityError) Unwrap() error { return e.details }

// Unwrap returns the *Error inside.
func (e *ConflictError) Unwrap() error { return e.details }

// Unwrap returns the *Error inside.
func (e *OutOfRangeError) Unwrap() error { return e.details }

// Unwrap returns the *Error inside.
func (e *UnavailableError) Unwrap() error { return e.details }

// Unwrap returns the *Error inside.
func (e *DeadlineError) Unwrap() error { return e.details }

// Unwrap returns the *Error inside.
func (e *IntegrityError) Unwrap() error { return e.details }

// SettingsError: the client's own settings are wrong: an address, a token file, a certificate file.
type SettingsError struct {
	// Message says what is wrong and what was expected.
	Message string

	cause error
}

func (e *SettingsError) Error() string { return "callsd: " + e.Message }

// Unwrap returns what reading a file failed with, if that was it.
func (e *SettingsError) Unwrap() error { return e.cause }

// typed puts an error into the type that its code asks for.
func typed(e *Error) error {
	switch e.Code {
	case codes.InvalidArgument:
		return &InvalidRequestError{e}
	case codes.NotFound:
		return &NotFoundError{e}
	case codes.Unauthenticated, codes.PermissionDenied:
		return &AccessError{e}
	case codes.ResourceExhausted:
		if e.Reason == "" {
			// gRPC itself answers so when a message is too large: no capacity is short.
			return e
		}
		return &CapacityError{e, number(e.Metadata["required"]), number(e.Metadata["available"])}
	case codes.FailedPrecondition, codes.Aborted, codes.AlreadyExists:
		return &ConflictError{e}
	case codes.OutOfRange:
		return &OutOfRangeError{e}
	case codes.Unavailable:
		return &UnavailableError{e}
	case codes.DeadlineExceeded:
		return &DeadlineError{e}
	case codes.DataLoss:
		return &IntegrityError{e}
	default:
		return e
	}
}

// fromRPC is the typed error for what gRPC returned under a context; nil for nil.
func fromRPC(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	// Not status.Convert alone: where tries were exhausted it puts that before the message.
	var answer interface{ GRPCStatus() *status.Status }
	st := status.Convert(err)
	if errors.As(err, &answer) {
		st = answer.GRPCStatus()
	}
	e := &Error{Code: st.Code(), Message: st.Message()}
	switch {
	case e.Code == codes.DeadlineExceeded:
		e.cause = context.DeadlineExceeded
	case e.Code == codes.Canceled && ctx.Err() != nil:
		e.cause = ctx.Err()
	}
	for _, detail := range st.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if detail.GetDomain() == errorDomain {
				e.Reason, e.Metadata = detail.GetReason(), detail.GetMetadata()
			}
		case *errdetails.BadRequest:
			for _, one := range detail.GetFieldViolations() {
				e.FieldViolations = append(e.FieldViolations, FieldViolation{
					Field: one.GetField(), Description: one.GetDescription(),
				})
			}
		case *errdetails.RetryInfo:
			e.RetryAfter = detail.GetRetryDelay().AsDuration()
		}
	}
	return typed(e)
}

// ofContext is the typed error of a context that has ended, nil before that.
func ofContext(ctx context.Context, message string) error {
	err := ctx.Err()
	if err == nil {
		return nil
	}
	return typed(&Error{Code: status.FromContextError(err).Code(), Message: message, cause: err})
}

// inside is the *Error of a typed error; nil when there is none.
func inside(err error) *Error {
	var found *Error
	errors.As(err, &found)
	return found
}

func mismatch(format string, values ...any) error {
	return typed(&Error{Code: codes.DataLoss, Message: fmt.Sprintf(format, values...)})
}

func number(text string) float64 {
	value, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0
	}
	return value
}
