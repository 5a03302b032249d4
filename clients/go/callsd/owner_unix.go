// SPDX-License-Identifier: Apache-2.0

//go:build unix

package callsd

import (
	"errors"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// serviceUser is whom the installed service runs as; a variable for tests.
var serviceUser = "callsd"

// isOwn tells whether a file is there and belongs to this user.
func isOwn(path string) bool {
	info, err := os.Stat(path)
	return err == nil && ownerOf(info) == os.Geteuid()
}

// checkOwner refuses a socket of somebody else; one that is not there is nobody's. The friend is the
// name or number of one more user who is trusted, or empty.
func checkOwner(socket, friend string) error {
	info, err := os.Stat(socket)
	if err != nil || isTrusted(ownerOf(info), friend) {
		return nil
	}
	owner := nameOf(ownerOf(info))
	return settings("%s belongs to %s, not to you, root or %s: nothing is sent there. Start the daemon "+
		"or name its address; if it is the daemon that you mean, say so by CALLSD_SOCKET_OWNER=%[2]s",
		socket, owner, serviceUser)
}

// checkPlace refuses a directory that somebody else may put there, or put something else in its place.
func checkPlace(directory, friend string) error {
	problem := problemOf(directory, friend)
	if problem == "" {
		if real, err := filepath.EvalSymlinks(directory); err == nil {
			problem = problemOf(real, friend)
		}
	}
	if problem == "" {
		return nil
	}
	return settings("%s: nothing is sent to a socket there. Start the daemon, or name its address "+
		"(CALLSD_ADDRESS)", problem)
}

// problemOf says what is wrong with a directory or one of those above it.
func problemOf(path, friend string) string {
	missing := ""
	for ; ; path = filepath.Dir(path) {
		info, err := os.Lstat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			missing = path
		case err != nil:
			return path + " cannot be looked at: " + err.Error()
		case !isTrusted(ownerOf(info), friend):
			return path + " belongs to " + nameOf(ownerOf(info))
		case info.IsDir() && info.Mode().Perm()&0o022 != 0 && missing != "":
			return "there is no " + missing + ", and others may make it"
		// In a directory like /tmp others' files cannot be moved or removed.
		case info.IsDir() && info.Mode().Perm()&0o022 != 0 && info.Mode()&fs.ModeSticky == 0:
			return "others may write in " + path
		default:
			missing = ""
		}
		if path == filepath.Dir(path) {
			return ""
		}
	}
}

func isTrusted(owner int, friend string) bool {
	return owner == os.Geteuid() || owner == 0 ||
		owner == numberOf(serviceUser) || owner == numberOf(friend)
}

// ownerOf is a file's owner.
func ownerOf(info fs.FileInfo) int {
	if system, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(system.Uid)
	}
	return -2
}

// numberOf is a user's number; -1 if there is none of that name.
func numberOf(name string) int {
	if number, err := strconv.ParseUint(name, 10, 32); err == nil {
		return int(number)
	}
	found, err := user.Lookup(name)
	if err != nil {
		return -1
	}
	number, err := strconv.Atoi(found.Uid)
	if err != nil {
		return -1
	}
	return number
}

func nameOf(owner int) string {
	if found, err := user.LookupId(strconv.Itoa(owner)); err == nil {
		return found.Username
	}
	return strconv.Itoa(owner)
}
