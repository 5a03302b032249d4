// SPDX-License-Identifier: Apache-2.0

package callsd

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/metadata"

	callsdv1 "github.com/callsd/callsd/clients/go/callsd/v1"
)

// A token does not travel in the clear beyond this machine, and what is no address is told so.
func TestAddresses(t *testing.T) {
	for address, isGood := range map[string]bool{
		"unix:/run/callsd/callsd.sock": true,
		"tcp:127.0.0.1:7411":           true,
		"tcp:[::1]:7411":               true,
		"tcp:localhost:7411":           true,
		"tls:calls.example:7411":       true,
		"unix:callsd.sock":             false,
		"tcp:192.0.2.1:7411":           false,
		"tcp:localhost.example:7411":   false,
		"tcp:7411":                     false,
		"tcp:127.0.0.1:0":              false,
		"tls:calls.example:70000":      false,
		"http://127.0.0.1:7411":        false,
	} {
		client, err := Dial(address)
		if isGood {
			if err != nil {
				t.Errorf("%s: %v", address, err)
				continue
			}
			client.Close()
			continue
		}
		if !strings.Contains(as[*SettingsError](t, err).Message, address) {
			t.Errorf("%v does not name %s", err, address)
		}
	}
}

// Without an address the environment's counts; without a token file the one beside the socket does.
func TestDefaults(t *testing.T) {
	folder := t.TempDir()
	t.Setenv("CALLSD_TOKEN_FILE", "")
	t.Setenv("CALLSD_ADDRESS", "unix:"+folder+"/callsd.sock")
	found, err := discover(endpoint{})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, found.address, "unix:"+folder+"/callsd.sock")
	equal(t, found.tokenFile, "")
	write(t, filepath.Join(folder, "owner.token"), "secret\n")
	found, _ = discover(endpoint{})
	equal(t, found.tokenFile, filepath.Join(folder, "owner.token"))
	t.Setenv("CALLSD_TOKEN_FILE", "/elsewhere")
	found, _ = discover(endpoint{})
	equal(t, found.tokenFile, "/elsewhere")
}

// The token is read for each call, so that a renewed one is used at once.
func TestToken(t *testing.T) {
	var sent []string
	file := filepath.Join(t.TempDir(), "token")
	client := serve(t, &script{
		get: func(ctx context.Context, _ *callsdv1.GetJobRequest) (*callsdv1.GetJobResponse, error) {
			sent = append(sent, metadata.ValueFromIncomingContext(ctx, "authorization")...)
			return &callsdv1.GetJobResponse{Job: &callsdv1.Job{}}, nil
		},
	}, WithTokenFile(file))
	for _, token := range []string{"one\n", "two"} {
		write(t, file, token)
		if _, err := client.Jobs().Get(limited(t), "1"); err != nil {
			t.Fatal(err)
		}
	}
	equal(t, strings.Join(sent, ", "), "Bearer one, Bearer two")
	for _, wrong := range []string{"", "two words", "two\nlines"} {
		write(t, file, wrong)
		_, err := client.Jobs().Get(limited(t), "1")
		as[*SettingsError](t, err)
	}
	os.Remove(file)
	_, err := client.Jobs().Get(limited(t), "1")
	as[*SettingsError](t, err)
	equal(t, len(sent), 2)
}

// Files for TLS that are no good are told before the first call.
func TestFiles(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	write(t, empty, "")
	for _, option := range []Option{
		WithCAFile("/nowhere.pem"),
		WithCAFile(empty),
		WithClientCertificate(empty, empty),
		WithClientCertificate(empty, ""),
	} {
		_, err := Dial("tls:127.0.0.1:7411", option)
		as[*SettingsError](t, err)
	}
	_, err := Dial("tcp:127.0.0.1:7411", WithClientCertificate(empty, empty))
	as[*SettingsError](t, err)
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
