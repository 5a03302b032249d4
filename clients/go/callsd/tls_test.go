// SPDX-License-Identifier: Apache-2.0

package callsd

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	callsdv1 "github.com/callsd/callsd/clients/go/callsd/v1"
)

// certify writes a certificate that vouches for itself, and its key.
func certify(t *testing.T, folder, name string) (certificateFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	equal(t, err, nil)
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: name},
		DNSNames:              []string{"localhost"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	equal(t, err, nil)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	equal(t, err, nil)
	certificateFile, keyFile = filepath.Join(folder, name+".pem"), filepath.Join(folder, name+".key")
	write(t, certificateFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})))
	write(t, keyFile, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
	return certificateFile, keyFile
}

// With TLS both sides show who they are, where the server asks for it; a stranger gets no answer.
func TestClientCertificate(t *testing.T) {
	folder := t.TempDir()
	serverFile, serverKey := certify(t, folder, "server")
	ownFile, ownKey := certify(t, folder, "client")
	pair, err := tls.LoadX509KeyPair(serverFile, serverKey)
	equal(t, err, nil)
	own, err := tls.LoadX509KeyPair(ownFile, ownKey)
	equal(t, err, nil)
	trusted := x509.NewCertPool()
	trusted.AddCert(own.Leaf)
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{pair},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    trusted,
	})))
	callsdv1.RegisterJobServiceServer(server, &script{
		get: func(context.Context, *callsdv1.GetJobRequest) (*callsdv1.GetJobResponse, error) {
			return &callsdv1.GetJobResponse{Job: &callsdv1.Job{Name: "jobs/1"}}, nil
		},
	})
	listener, err := net.Listen("tcp", "localhost:0")
	equal(t, err, nil)
	go server.Serve(listener)
	defer server.Stop()
	_, port, _ := net.SplitHostPort(listener.Addr().String())

	get := func(options ...Option) error {
		client, err := Dial("tls:localhost:"+port, options...)
		equal(t, err, nil)
		defer client.Close()
		_, err = client.Jobs().Get(limited(t), "1")
		return err
	}
	equal(t, get(WithCAFile(serverFile), WithClientCertificate(ownFile, ownKey)), nil)
	as[*UnavailableError](t, get(WithCAFile(serverFile)))
	as[*UnavailableError](t, get(WithClientCertificate(ownFile, ownKey)))
}
