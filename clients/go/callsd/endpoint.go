// SPDX-License-Identifier: Apache-2.0

package callsd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

const (
	socketName      = "callsd.sock"
	ownerTokenName  = "owner.token"
	systemDirectory = "/run/callsd"

	// A token is some 50 characters; a file beyond this is a mistake, not a token.
	maxTokenFileBytes = 4096
)

// endpoint is a daemon's address, with what is needed to talk to it.
type endpoint struct {
	address         string
	tokenFile       string
	caFile          string
	certificateFile string
	keyFile         string

	// socketOwner is a user whose socket is trusted beside our own, root's and the service's.
	socketOwner string
	// isDefault: nobody has named the address, so nobody else may be able to make it either.
	isDefault bool
}

// discover completes what is given from the environment and then from the usual places.
func discover(e endpoint) (endpoint, error) {
	if e.address == "" {
		e.address = os.Getenv("CALLSD_ADDRESS")
	}
	if e.address == "" {
		e.address, e.isDefault = defaultAddress(), true
	}
	e.socketOwner = os.Getenv("CALLSD_SOCKET_OWNER")
	if e.tokenFile == "" {
		e.tokenFile = os.Getenv("CALLSD_TOKEN_FILE")
	}
	if path, isUnix := strings.CutPrefix(e.address, "unix:"); isUnix && e.tokenFile == "" {
		e.tokenFile = readable(filepath.Join(filepath.Dir(path), ownerTokenName))
	}
	if e.caFile == "" {
		e.caFile = os.Getenv("CALLSD_CA_FILE")
	}
	return e, e.check()
}

func (e endpoint) check() error {
	scheme, rest, _ := strings.Cut(e.address, ":")
	switch scheme {
	case "unix":
		if !strings.HasPrefix(rest, "/") {
			return settings("%s: a socket needs an absolute path (unix:/path)", e.address)
		}
	case "tcp", "tls":
		host, port := splitPort(rest)
		if number, err := strconv.ParseUint(port, 10, 16); host == "" || err != nil || number == 0 {
			return settings("%s: expected %s:HOST:PORT, such as %[2]s:127.0.0.1:7411", e.address, scheme)
		}
		if !e.isSecure() && !isLoopback(host) {
			return settings("%s: a token does not travel in the clear beyond this machine; "+
				"use tls:HOST:PORT, with a CA file if the certificate is your own", e.address)
		}
	default:
		return settings("%s: expected unix:/path, tcp:HOST:PORT or tls:HOST:PORT", e.address)
	}
	if (e.certificateFile == "") != (e.keyFile == "") {
		return settings("a client certificate needs both files, the certificate's and its key's")
	}
	if e.certificateFile != "" && !e.isSecure() {
		return settings("%s: a client certificate is for TLS; use tls:HOST:PORT", e.address)
	}
	return nil
}

// isSecure tells whether the connection is encrypted.
func (e endpoint) isSecure() bool {
	return strings.HasPrefix(e.address, "tls:") ||
		strings.HasPrefix(e.address, "tcp:") && e.caFile != ""
}

// isLocal tells whether the daemon runs on this machine.
func (e endpoint) isLocal() bool {
	scheme, rest, _ := strings.Cut(e.address, ":")
	host, _ := splitPort(rest)
	return scheme == "unix" || isLoopback(host)
}

// target is the address in gRPC's own syntax.
func (e endpoint) target() string {
	scheme, rest, _ := strings.Cut(e.address, ":")
	if scheme == "unix" {
		return "unix://" + rest
	}
	return "dns:///" + rest
}

func (e endpoint) credentials() (credentials.TransportCredentials, error) {
	if !e.isSecure() {
		return insecure.NewCredentials(), nil
	}
	config := &tls.Config{}
	if e.caFile != "" {
		pem, err := os.ReadFile(e.caFile)
		if err != nil {
			return nil, unreadable("CA file", e.caFile, err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, settings("CA file %s: it holds no certificate in PEM", e.caFile)
		}
	}
	if e.certificateFile != "" {
		load := func() (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(e.certificateFile, e.keyFile)
			if err != nil {
				return nil, unreadable("client certificate", e.certificateFile, err)
			}
			return &pair, nil
		}
		if _, err := load(); err != nil {
			return nil, err
		}
		// Certificates are renewed while clients run: read for each connection.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return load()
		}
	}
	return credentials.NewTLS(config), nil
}

// authorize adds the bearer token, or nothing without a token file, and refuses a request to a socket
// of somebody whom it is not for. Daemons come and go, and tokens are renewed, while clients run: both
// are looked at for each request.
func (e endpoint) authorize(ctx context.Context) (context.Context, error) {
	if socket, isUnix := strings.CutPrefix(e.address, "unix:"); isUnix {
		if e.isDefault {
			if err := checkPlace(filepath.Dir(socket), e.socketOwner); err != nil {
				return nil, err
			}
		}
		if err := checkOwner(socket, e.socketOwner); err != nil {
			return nil, err
		}
	}
	if e.tokenFile == "" {
		return ctx, nil
	}
	file, err := os.Open(e.tokenFile)
	if err != nil {
		return nil, unreadable("token file", e.tokenFile, err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxTokenFileBytes))
	if err != nil {
		return nil, unreadable("token file", e.tokenFile, err)
	}
	token := strings.TrimSpace(string(content))
	isOdd := func(r rune) bool { return r <= ' ' || r > '~' }
	if token == "" || strings.ContainsFunc(token, isOdd) {
		return nil, settings("token file %s: it holds no token on one line", e.tokenFile)
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token), nil
}

// defaultAddress is the socket of this user's daemon if there is one, else the system's if there
// is one.
func defaultAddress() string {
	own := filepath.Join(runtimeDirectory(), socketName)
	// Anyone may make directories under /tmp: only a socket of our own is our own daemon's.
	if found, err := os.Stat(systemDirectory); err == nil && found.IsDir() && !isOwn(own) {
		return "unix:" + filepath.Join(systemDirectory, socketName)
	}
	return "unix:" + own
}

// runtimeDirectory is where a daemon of this user puts its socket.
func runtimeDirectory() string {
	if os.Geteuid() == 0 {
		return systemDirectory
	}
	if directory := os.Getenv("XDG_RUNTIME_DIR"); directory != "" {
		return filepath.Join(directory, "callsd")
	}
	return "/tmp/callsd-" + userName()
}

// userName looks where the daemon does.
func userName() string {
	for _, variable := range []string{"LOGNAME", "USER", "LNAME", "USERNAME"} {
		if name := os.Getenv(variable); name != "" {
			return name
		}
	}
	if current, err := user.Current(); err == nil {
		return current.Username
	}
	return strconv.Itoa(os.Getuid())
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	address, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && address.IsLoopback()
}

func splitPort(rest string) (host, port string) {
	at := strings.LastIndexByte(rest, ':')
	if at < 0 {
		return "", ""
	}
	return rest[:at], rest[at+1:]
}

// readable is a path, or nothing if it cannot be read.
func readable(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	file.Close()
	return path
}

func settings(format string, values ...any) error {
	return &SettingsError{Message: fmt.Sprintf(format, values...)}
}

func unreadable(what, path string, err error) error {
	return &SettingsError{Message: fmt.Sprintf("%s %s: %v", what, path, err), cause: err}
}
