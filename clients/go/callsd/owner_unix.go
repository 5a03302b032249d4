// SPDX-License-Identifier: Apache-2.0

//go:build unix

package callsd

import (
	"os"
	"syscall"
)

// isOwn tells whether a file is there and belongs to this user.
func isOwn(path string) bool {
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	system, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(system.Uid) == os.Geteuid()
}
