// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
)

// readOpus is the Opus packets of an Ogg file: what a call's server would receive by RTP.
// Source: RFC 3533, section 6, and RFC 7845.
func readOpus(path string) ([][]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	in := bufio.NewReader(file)
	var packets [][]byte
	var packet []byte
	for {
		header := make([]byte, 27)
		if _, err := io.ReadFull(in, header); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		if string(header[:4]) != "OggS" {
			return nil, fmt.Errorf("%s is no Ogg file", path)
		}
		lengths := make([]byte, header[26])
		if _, err := io.ReadFull(in, lengths); err != nil {
			return nil, err
		}
		for _, length := range lengths {
			segment := make([]byte, length)
			if _, err := io.ReadFull(in, segment); err != nil {
				return nil, err
			}
			packet = append(packet, segment...)
			if length < 255 { // a packet's last segment
				packets = append(packets, packet)
				packet = nil
			}
		}
	}
	if len(packets) < 2 || string(packets[0][:min(8, len(packets[0]))]) != "OpusHead" {
		return nil, fmt.Errorf("%s holds no Opus", path)
	}
	return packets[2:], nil // behind head and tags
}
