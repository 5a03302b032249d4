// SPDX-License-Identifier: Apache-2.0

// Package callsd is the client of callsd: recordings, transcripts and live captions for calls.
//
// [Dial] makes a [Client] that is safe for use by several goroutines and lives as long as the
// program. Messages of the API are in package callsdv1.
//
// # Time
//
// A request with one answer whose context has no deadline ends after 10 s (see [WithTimeout]).
// Streams end with their context. They go on over lost connections and restarts of the daemon for
// as long as it comes back within the client's patience (see [WithPatience]); where no daemon has
// ever answered the client, they fail at once.
//
// # Errors
//
// What the daemon or the connection refuses is one of the typed errors, such as [*CapacityError];
// inside of each is an [*Error], which errors.As finds, too. [*SettingsError] tells of a wrong
// address, token file or certificate file. errors.Is knows context.Canceled,
// context.DeadlineExceeded and [ErrClosed].
package callsd
