// SPDX-License-Identifier: Apache-2.0

// The driver of the Go client: one goroutine for each command. The protocol is described in
// clients/conformance/README.md.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/callsd/callsd/clients/go/callsd"
)

// command is a line of standard input; which fields it has depends on what is to be done.
type command struct {
	ID             int64            `json:"id"`
	Do             string           `json:"do"`
	Target         int64            `json:"target"`
	Address        string           `json:"address"`
	TokenFile      string           `json:"tokenFile"`
	CAFile         string           `json:"caFile"`
	Request        json.RawMessage  `json:"request"`
	Filter         json.RawMessage  `json:"filter"`
	TimeoutSeconds float64          `json:"timeoutSeconds"`
	Name           string           `json:"name"`
	PageSize       int32            `json:"pageSize"`
	Resume         *callsd.Position `json:"resume"`
	SlowSeconds    float64          `json:"slowSeconds"`
	Path           string           `json:"path"`
	Job            string           `json:"job"`
	Artifact       string           `json:"artifact"`
	Speaker        string           `json:"speaker"`
	RealTime       bool             `json:"realTime"`
}

// answer is a line of standard output.
type answer struct {
	ID     int64 `json:"id"`
	Event  any   `json:"event,omitempty"`
	Result any   `json:"result,omitempty"`
	Error  any   `json:"error,omitempty"`
}

var nothing = map[string]any{}

type driver struct {
	writing sync.Mutex
	out     *json.Encoder

	mu      sync.Mutex
	client  *callsd.Client
	cancels map[int64]context.CancelFunc
}

func main() {
	d := &driver{out: json.NewEncoder(os.Stdout), cancels: map[int64]context.CancelFunc{}}
	if err := d.run(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run reads commands to the end of input.
func (d *driver) run(in io.Reader) error {
	ctx, cancel := context.WithCancel(context.Background())
	var working sync.WaitGroup
	defer func() {
		cancel()
		working.Wait()
		if d.client != nil {
			d.client.Close()
		}
	}()
	decoder := json.NewDecoder(bufio.NewReader(in))
	for {
		var c command
		err := decoder.Decode(&c)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		own, end := context.WithCancel(ctx)
		d.mu.Lock()
		d.cancels[c.ID] = end
		d.mu.Unlock()
		working.Go(func() { d.answer(own, c) })
	}
}

func (d *driver) answer(ctx context.Context, c command) {
	act, isStream := d.action(c.Do)
	if act == nil {
		d.say(answer{ID: c.ID, Error: described(fmt.Errorf("unknown command %q", c.Do))})
		return
	}
	limited, end := ctx, context.CancelFunc(func() {})
	if c.TimeoutSeconds > 0 {
		limited, end = context.WithTimeout(ctx, seconds(c.TimeoutSeconds))
	}
	defer end()
	result, err := act(limited, c)
	switch {
	case err == nil:
		d.say(answer{ID: c.ID, Result: result})
	case isStream && ctx.Err() != nil:
		d.say(answer{ID: c.ID, Result: nothing})
	default:
		d.say(answer{ID: c.ID, Error: described(err)})
	}
	d.cancel(c.ID)
}

func (d *driver) cancel(id int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if end := d.cancels[id]; end != nil {
		end()
		delete(d.cancels, id)
	}
}

func (d *driver) say(line answer) {
	d.writing.Lock()
	defer d.writing.Unlock()
	if err := d.out.Encode(line); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

func (d *driver) event(c command, event any) { d.say(answer{ID: c.ID, Event: event}) }

func seconds(number float64) time.Duration { return time.Duration(number * float64(time.Second)) }
