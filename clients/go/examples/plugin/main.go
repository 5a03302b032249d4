// SPDX-License-Identifier: Apache-2.0

// A plugin of a chat server that records and captions calls, and a server around it that plays one
// call: a directory with an Ogg Opus file for each speaker.
//
//	go run ./examples/plugin -call ../../daemon/callsd_bench/sample_call -folder /tmp/calls
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/callsd/callsd/clients/go/callsd"
	callsdv1 "github.com/callsd/callsd/clients/go/callsd/v1"
)

const (
	channel = "town-square"

	// A packet of the sample call, as of calls in general.
	packetTime = 20 * time.Millisecond
)

func main() {
	address := flag.String("address", "", "the daemon's address (default: CALLSD_ADDRESS, or this machine's)")
	folder := flag.String("folder", "calls", "where the files of calls go")
	source := flag.String("call", "", "directory with an Ogg Opus file for each speaker")
	page := flag.String("page", "", "address of the call's page (default: one of our own)")
	limit := flag.Duration("limit", 0, "play no more of the call than this")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	if err := run(ctx, *address, *folder, *source, *page, *limit); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, address, folder, source, page string, limit time.Duration) error {
	speakers, err := readCall(source)
	if err != nil {
		return err
	}
	client, err := callsd.Dial(address)
	if err != nil {
		return err
	}
	if page == "" {
		own, err := servePage()
		if err != nil {
			return err
		}
		page = own
	}
	plugin := Activate(terminal{}, client, folder)
	defer plugin.Deactivate()
	plugin.CallStarted(channel, &callsdv1.RecordingSpec{
		Url:             page,
		ReadyExpression: "document.readyState === 'complete'",
		ReadyTimeout:    durationpb.New(30 * time.Second),
	})
	play(ctx, plugin, speakers, limit)
	plugin.CallEnded(channel)
	return nil
}

// readCall is the packets of each speaker, by the name of the file.
func readCall(folder string) (map[string][][]byte, error) {
	files, err := filepath.Glob(filepath.Join(folder, "*.ogg"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no Ogg files in %q: name a directory with -call", folder)
	}
	speakers := map[string][][]byte{}
	for _, file := range files {
		packets, err := readOpus(file)
		if err != nil {
			return nil, err
		}
		speakers[strings.TrimSuffix(filepath.Base(file), ".ogg")] = packets
	}
	return speakers, nil
}

// play is everybody talking, in real time.
func play(ctx context.Context, plugin *Plugin, speakers map[string][][]byte, limit time.Duration) {
	if limit > 0 {
		limited, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		ctx = limited
	}
	began := time.Now()
	var talking sync.WaitGroup
	for user, packets := range speakers {
		plugin.Joined(channel, user, strings.ToUpper(user[:1])+user[1:])
		talking.Go(func() {
			for number, packet := range packets {
				at := time.Duration(number) * packetTime
				select {
				case <-time.After(time.Until(began.Add(at))):
				case <-ctx.Done():
					return
				}
				plugin.Audio(channel, user, packet, at)
			}
			plugin.Muted(channel, user)
		})
	}
	talking.Wait()
}

// servePage serves something that can be recorded, at an address of this machine.
func servePage() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	const page = `<!doctype html><title>Call</title><h1>The call</h1><p id="clock"></p>
<script>setInterval(() => clock.textContent = new Date().toISOString(), 100)</script>`
	go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, page)
	}))
	return "http://" + listener.Addr().String() + "/", nil
}

// terminal is a chat server with one reader.
type terminal struct{}

func (terminal) Post(channel, text string) { fmt.Printf("[%s] %s\n", channel, text) }

func (terminal) Caption(_, speaker, text string, isFinal bool) {
	if isFinal {
		fmt.Printf("    %s: %s\n", speaker, text)
	}
}
