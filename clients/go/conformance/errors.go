// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"strings"

	rpccode "google.golang.org/genproto/googleapis/rpc/code"

	"github.com/callsd/callsd/clients/go/callsd"
)

// failure is an error as the runner reads it.
type failure struct {
	Type       string            `json:"type"`
	Code       string            `json:"code"`
	Reason     string            `json:"reason"`
	Message    string            `json:"message"`
	Metadata   map[string]string `json:"metadata,omitempty"`
	RetryAfter float64           `json:"retryAfterSeconds,omitempty"`
	Fields     []string          `json:"fields,omitempty"`
}

// described tells of an error what the library's typed errors hold.
func described(err error) failure {
	var found *callsd.Error
	if !errors.As(err, &found) {
		return failure{Type: "CallsdError", Code: "UNKNOWN", Message: err.Error()}
	}
	told := failure{
		Type:       strings.TrimPrefix(fmt.Sprintf("%T", err), "*callsd."),
		Code:       rpccode.Code(found.Code).String(),
		Reason:     found.Reason,
		Message:    found.Message,
		Metadata:   found.Metadata,
		RetryAfter: found.RetryAfter.Seconds(),
	}
	if told.Type == "Error" {
		told.Type = "CallsdError"
	}
	for _, violation := range found.FieldViolations {
		told.Fields = append(told.Fields, violation.Field)
	}
	return told
}
