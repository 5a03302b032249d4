// SPDX-License-Identifier: Apache-2.0

//go:build unix

package callsd

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	callsdv1 "github.com/callsd/callsd/clients/go/callsd/v1"
)

const stranger = 12345

// near is a directory that nobody else may write in; only root can make what is somebody else's.
func near(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("takes root: only root can make what is somebody else's")
	}
	folder, err := os.MkdirTemp("/tmp", "callsd-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	return folder
}

// give makes a file somebody else's.
func give(t *testing.T, path string, owner int) {
	t.Helper()
	if err := os.Lchown(path, owner, -1); err != nil {
		t.Fatal(err)
	}
}

// socketAt makes a socket that nobody listens at.
func socketAt(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	listener.Close()
}

func isRefused(t *testing.T, err error, parts ...string) {
	t.Helper()
	message := as[*SettingsError](t, err).Message
	for _, part := range parts {
		if !strings.Contains(message, part) {
			t.Errorf("%q does not say %q", message, part)
		}
	}
}

// A call goes to no socket of a stranger, and the error says what to do; a user who is named is none.
func TestSocketOfAStranger(t *testing.T) {
	path := filepath.Join(near(t), "callsd.sock")
	client, err := Dial("unix:"+path, WithTokenFile("/nowhere"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	socketAt(t, path)
	give(t, path, stranger)
	_, err = client.Jobs().Get(limited(t), "1")
	isRefused(t, err, path+" belongs to 12345", "CALLSD_SOCKET_OWNER=12345")
	_, err = callsdv1.NewJobServiceClient(client.Conn()).WatchJobs(limited(t), &callsdv1.WatchJobsRequest{})
	isRefused(t, err, "belongs to 12345")
	for _, friend := range []string{strconv.Itoa(stranger), "nobody"} {
		give(t, path, numberOf(friend))
		if err := checkOwner(path, friend); err != nil {
			t.Error(err)
		}
	}
	isRefused(t, checkOwner(path, ""), "belongs to nobody")
	serviceUser = "nobody"
	defer func() { serviceUser = "callsd" }()
	if err := checkOwner(path, ""); err != nil {
		t.Error(err)
	}
}

// Where nobody has named the address, nobody else may be able to make the socket or what it lies in.
func TestDefaultPlace(t *testing.T) {
	folder := near(t)
	own := filepath.Join(folder, "own")
	directory := filepath.Join(own, "callsd")
	path := filepath.Join(directory, "callsd.sock")
	e := endpoint{address: "unix:" + path, isDefault: true}
	ask := func() error {
		_, err := e.authorize(context.Background())
		return err
	}
	mode := func(path string, mode os.FileMode) {
		t.Helper()
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	good := func() {
		t.Helper()
		if err := ask(); err != nil {
			t.Error(err)
		}
	}
	good()
	socketAt(t, path)
	good()
	for _, place := range []string{own, directory} {
		for _, open := range []os.FileMode{0o777, 0o775} {
			mode(place, open)
			isRefused(t, ask(), "others may write in "+place+":", "CALLSD_ADDRESS")
		}
		mode(place, 0o700)
		give(t, place, stranger)
		isRefused(t, ask(), place+" belongs to 12345")
		give(t, place, 0)
	}
	good()
	if err := os.Rename(directory, filepath.Join(folder, "real")); err != nil {
		t.Fatal(err)
	}
	mode(own, 0o777|os.ModeSticky)
	isRefused(t, ask(), "others may make it")
	if err := os.Symlink(filepath.Join(folder, "real"), directory); err != nil {
		t.Fatal(err)
	}
	good()
	give(t, directory, stranger)
	isRefused(t, ask(), directory+" belongs to 12345")
}
