// SPDX-License-Identifier: Apache-2.0

/** The server's side of live captions: hears, forgets, is cut, as a test wants it. */

import assert from "node:assert/strict";

import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";

import {
    type AudioAck,
    AudioAckSchema,
    type AudioChunk,
    duration,
    seconds,
    type SpeakerEvent,
    SpeakerEventType,
    type StreamCaptionsRequest,
    type WatchCaptionsRequest,
    type WatchCaptionsResponse,
    WatchCaptionsResponseSchema,
} from "@callsd/client";

const BYTES_PER_SECOND = 32_000;

/** What a server has of one speaker. */
interface Track {
    received: AudioChunk[];
    /** How many of them are worked off. */
    processed: number;
}

/** A server that holds a sender to its promise: the next number, or one that it has already. */
export class Hearing {
    readonly tracks = new Map<string, Track>();
    readonly events: SpeakerEvent[] = [];
    /** Messages with sound. */
    messages = 0;
    /** Chunks that came although they were there. */
    repeated = 0;
    /** Chunks of each speaker that are not worked off until the speech ends. */
    keepsBack = 0;
    /** Whether a speaker's silence has everything worked off. */
    muteCounts = true;

    /** Take a message. */
    hear({ message }: StreamCaptionsRequest): void {
        if (message.case === "event") {
            const { speaker, type } = message.value;
            this.events.push(message.value);
            if (this.muteCounts && [SpeakerEventType.MUTED, SpeakerEventType.LEFT].includes(type)) {
                const track = this.#track(speaker);
                track.processed = track.received.length;
            }
            return;
        }
        assert.ok(message.case === "audio" || message.case === "batch", "config comes first only");
        this.messages += 1;
        const chunks = message.case === "audio" ? [message.value] : message.value.chunks;
        for (const chunk of chunks) {
            this.#take(chunk);
        }
    }

    /** Lose what is not worked off. */
    restart(): void {
        for (const track of this.tracks.values()) {
            track.received.length = track.processed;
        }
    }

    /** What is here of each speaker. */
    acks(): AudioAck[] {
        return [...this.tracks].map(([speaker, { received, processed }]) =>
            create(AudioAckSchema, {
                speaker,
                receivedSequence: BigInt(received.length),
                receivedOffset: end(received),
                processedOffset: end(received.slice(0, processed)),
            }),
        );
    }

    /** All that came of a speaker, in order. */
    sound(speaker: string): Buffer {
        return Buffer.concat(this.#track(speaker).received.map((chunk) => chunk.data));
    }

    #track(speaker: string): Track {
        const track = this.tracks.get(speaker) ?? { received: [], processed: 0 };
        this.tracks.set(speaker, track);
        return track;
    }

    #take(chunk: AudioChunk): void {
        const track = this.#track(chunk.speaker);
        const due = track.received.length + 1;
        if (chunk.sequence < due) {
            this.repeated += 1;
            return;
        }
        assert.equal(Number(chunk.sequence), due, `${chunk.speaker}: the next number`);
        track.received.push(chunk);
        track.processed = Math.max(track.processed, track.received.length - this.keepsBack);
    }
}

/** Hears one call, and shows the captions that a test puts here. */
export class ScriptedCaptions {
    readonly hearing = new Hearing();
    readonly configs: string[] = [];
    readonly watches: WatchCaptionsRequest[] = [];
    /**
     * After so many messages the next streams of sound are cut, and what was not worked off is
     * forgotten; the next watches are cut after so many captions.
     */
    cuts: number[] = [];
    /** How streams of sound end that are not cut. */
    end: Code | undefined;
    captions: WatchCaptionsResponse[] = [];

    methods() {
        return {
            streamCaptions: (requests: AsyncIterable<StreamCaptionsRequest>) =>
                this.#listen(requests),
            watchCaptions: (request: WatchCaptionsRequest) => this.#show(request),
        };
    }

    /** Acknowledge each message. */
    async *#listen(requests: AsyncIterable<StreamCaptionsRequest>) {
        const limit = this.cuts.shift();
        let count = -1;
        for await (const request of requests) {
            count += 1;
            if (request.message.case === "config") {
                this.configs.push(request.message.value.job);
            } else {
                this.hearing.hear(request);
            }
            if (count && count === limit) {
                this.hearing.restart();
                throw new ConnectError("cut", Code.Unavailable);
            }
            if (count && this.end) {
                throw new ConnectError("over", this.end);
            }
            yield { acks: this.hearing.acks() };
        }
    }

    /** Send what there is behind the number asked for, cut where the test wants it. */
    async *#show(request: WatchCaptionsRequest) {
        this.watches.push(request);
        const limit = this.cuts.shift();
        const after = request.resumeSequence ?? 0n;
        const shown = this.captions.filter(({ message }) => {
            const sequence = message.case === "caption" ? message.value.sequence : 0n;
            return !(0n < sequence && sequence <= after);
        });
        for (const [count, response] of shown.entries()) {
            if (count === limit) {
                throw new ConnectError("cut", Code.Unavailable);
            }
            yield response;
        }
    }
}

/** A tenth of a second that is unlike any other. */
export function said(number: number): Buffer {
    const word = Buffer.alloc(4);
    word.writeUInt32LE(number);
    return Buffer.alloc(3200, word);
}

/** All of them, one after the other. */
export function allSaid(count: number): Buffer {
    return Buffer.concat(Array.from({ length: count }, (_, number) => said(number)));
}

/** A final caption. */
export function final(sequence: number): WatchCaptionsResponse {
    return create(WatchCaptionsResponseSchema, {
        message: {
            case: "caption",
            value: {
                isFinal: true,
                sequence: BigInt(sequence),
                speaker: "Ada",
                text: `word ${sequence}`,
            },
        },
    });
}

function end(chunks: readonly AudioChunk[]) {
    const last = chunks.at(-1);
    return duration(last ? seconds(last.startOffset) + last.data.length / BYTES_PER_SECOND : 0);
}
