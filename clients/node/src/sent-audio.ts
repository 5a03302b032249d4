// SPDX-License-Identifier: Apache-2.0

/**
 * The sound of a call that its sender keeps: none is lost and none comes twice. No I/O here.
 *
 * The server can lose all sound that it has not worked off, by being killed. So a sender keeps each
 * chunk until it is worked off, and after a cut sends again what the server says it does not have.
 */

import { create } from "@bufbuild/protobuf";
import type { Duration } from "@bufbuild/protobuf/wkt";
import { DurationSchema } from "@bufbuild/protobuf/wkt";

import { ConflictError } from "./errors.js";
import {
    type AudioAck,
    type AudioChunk,
    AudioChunkSchema,
    type SpeakerEvent,
    SpeakerEventSchema,
    SpeakerEventType,
    type StreamCaptionsRequest,
    StreamCaptionsRequestSchema,
} from "./gen/callsd/v1/caption_pb.js";
import { type Piece, SAMPLE_RATE_HZ } from "./sound.js";

/** The most that the API takes in one batch. */
const MAX_BATCH_CHUNKS = 1000;
const MAX_BATCH_BYTES = 512 << 10;

/**
 * Sound of one speaker that a sender keeps: three times what the server takes in before it makes a
 * sender wait, so that live sound is not held up by a restart.
 */
export const DEFAULT_KEEP_SECONDS = 60;

/** The same for all speakers together: 17 minutes of s16le. */
const MAX_KEPT_BYTES = 32 << 20;

/**
 * As the server does: chunks whose stamps are rounded are one sound, and one that begins long
 * before the sound ahead of it has ended is refused there.
 */
const JOIN_SAMPLES = SAMPLE_RATE_HZ / 50;
const MAX_OVERLAP_SAMPLES = SAMPLE_RATE_HZ / 2;

const NANOSECONDS_PER_SAMPLE = 1e9 / SAMPLE_RATE_HZ;

/** A chunk or a speaker's change, as it is sent. */
type Message = AudioChunk | SpeakerEvent;

/** A message that may have to be sent again; an event lasts no samples. */
interface Kept {
    readonly order: number;
    readonly message: Message;
    readonly endSample: number;
    readonly samples: number;
}

/** What is known of one speaker. */
class Speaker {
    /** Of the last chunk, ours or, when we began, that of the sender before us. */
    sequence = 0n;
    /** End of the last chunk; undefined before there was one. */
    endSample: number | undefined;
    processedSample = 0;
    /** In order; two events never follow each other. */
    readonly kept: Kept[] = [];
    keptSamples = 0;
    joined: SpeakerEvent | undefined;
    ack: AudioAck | undefined;

    /** Index of the oldest chunk kept, -1 without one; at most one event is before it. */
    get oldest(): number {
        return this.kept.slice(0, 2).findIndex((item) => item.samples > 0);
    }

    get lagSamples(): number {
        const chunk = this.kept[this.oldest];
        return chunk === undefined || this.endSample === undefined
            ? 0
            : this.endSample - Math.max(chunk.endSample - chunk.samples, this.processedSample);
    }
}

/** The sound of one call from a sender's side: numbered, kept while it may be asked for again. */
export class SentAudio {
    readonly #keepSamples: number;
    readonly #maxKeptBytes: number;
    readonly #speakers = new Map<string, Speaker>();
    #unsent: Message[] = [];
    #order = 0;
    #keptBytes = 0;
    #hasBegun = false;

    constructor(keepSeconds = DEFAULT_KEEP_SECONDS, maxKeptBytes = MAX_KEPT_BYTES) {
        this.#keepSamples = Math.round(keepSeconds * SAMPLE_RATE_HZ);
        this.#maxKeptBytes = maxKeptBytes;
    }

    // What the caller has

    /** Whether a piece can be kept; one is always taken where nothing is. */
    hasRoom(piece: Piece): boolean {
        const { keptSamples } = this.#speaker(piece.speaker);
        return (
            (!keptSamples || keptSamples + piece.samples <= this.#keepSamples) &&
            (!this.#keptBytes || this.#keptBytes + piece.data.length <= this.#maxKeptBytes)
        );
    }

    /** Number a piece, keep it, and have it sent. */
    add(piece: Piece): void {
        const speaker = this.#speaker(piece.speaker);
        let { startSample } = piece;
        if (speaker.endSample !== undefined) {
            const gap = startSample - speaker.endSample;
            if (-MAX_OVERLAP_SAMPLES <= gap && gap <= JOIN_SAMPLES) {
                startSample = speaker.endSample;
            }
        }
        speaker.sequence += 1n;
        speaker.endSample = startSample + piece.samples;
        const chunk = create(AudioChunkSchema, {
            speaker: piece.speaker,
            sequence: speaker.sequence,
            startOffset: offset(startSample),
            data: piece.data,
        });
        speaker.keptSamples += piece.samples;
        this.#keptBytes += piece.data.length;
        this.#keep(speaker, chunk, piece.samples);
        this.#unsent.push(chunk);
    }

    /** Tell of a speaker's change, at the end of the speaker's sound. */
    change(name: string, type: SpeakerEventType, displayName = ""): void {
        const speaker = this.#speaker(name);
        const event = create(SpeakerEventSchema, {
            speaker: name,
            type,
            offset: offset(speaker.endSample ?? 0),
            displayName,
        });
        if (type === SpeakerEventType.JOINED) {
            speaker.joined = event;
        } else {
            // Of several changes without sound between them the last one counts.
            if (speaker.kept.at(-1)?.samples === 0) {
                speaker.kept.pop();
            }
            this.#keep(speaker, event, 0);
        }
        this.#unsent.push(event);
    }

    /** Have everything worked off now: nobody who still has something to say says more. */
    endSpeech(): void {
        for (const [name, speaker] of this.#speakers) {
            if (speaker.keptSamples) {
                this.change(name, SpeakerEventType.MUTED);
            }
        }
    }

    // What a connection does

    /** What to send now, as much as fits in one message; undefined if all is sent. */
    nextMessage(): StreamCaptionsRequest | undefined {
        const first = this.#unsent[0];
        if (first === undefined) {
            return undefined;
        }
        if (!isChunk(first)) {
            this.#unsent.shift();
            return create(StreamCaptionsRequestSchema, {
                message: { case: "event", value: first },
            });
        }
        const chunks: AudioChunk[] = [];
        let sizeBytes = 0;
        for (const following of this.#unsent) {
            if (!isChunk(following) || chunks.length === MAX_BATCH_CHUNKS) {
                break;
            }
            // With an upper bound of what stands around the sound.
            sizeBytes += following.data.length + 3 * following.speaker.length + 32;
            if (chunks.length && sizeBytes > MAX_BATCH_BYTES) {
                break;
            }
            chunks.push(following);
        }
        this.#unsent.splice(0, chunks.length);
        return create(StreamCaptionsRequestSchema, {
            message:
                chunks.length === 1
                    ? { case: "audio", value: first }
                    : { case: "batch", value: { chunks } },
        });
    }

    /**
     * Learn from an answer: what is worked off is kept no longer.
     *
     * With the first one on a connection, what the server lacks is sent again.
     *
     * @throws {ConflictError} The server has sound that is not ours: another sender is at work.
     */
    learn(acks: readonly AudioAck[], { isFirst }: { isFirst: boolean }): void {
        const received = new Map<string, bigint>();
        for (const ack of acks) {
            received.set(ack.speaker, ack.receivedSequence);
            const speaker = this.#speaker(ack.speaker);
            if (!this.#hasBegun) {
                speaker.sequence = ack.receivedSequence;
            } else if (ack.receivedSequence > speaker.sequence) {
                throw replaced(ack.speaker);
            }
            this.#acknowledge(speaker, ack);
        }
        this.#hasBegun = true;
        if (isFirst) {
            this.#beginAgain(received);
        }
    }

    #beginAgain(received: ReadonlyMap<string, bigint>): void {
        const speakers = [...this.#speakers.values()];
        const lacking = speakers
            .flatMap((speaker) => speaker.kept)
            .filter(
                ({ message }) =>
                    !isChunk(message) || message.sequence > (received.get(message.speaker) ?? 0n),
            )
            .sort((one, other) => one.order - other.order);
        this.#unsent = [
            ...speakers.flatMap((speaker) => speaker.joined ?? []),
            ...lacking.map((item) => item.message),
        ];
    }

    // How far it is

    /** Whether `nextMessage` has one. */
    get hasUnsent(): boolean {
        return this.#unsent.length > 0;
    }

    /** The newest acknowledgement of each speaker. */
    get acks(): ReadonlyMap<string, AudioAck> {
        return new Map(
            [...this.#speakers].flatMap(([name, { ack }]) => (ack ? [[name, ack] as const] : [])),
        );
    }

    /** Whether the server has worked off everything. */
    get isWorkedOff(): boolean {
        return !this.#keptBytes;
    }

    /** Sound from the oldest that is not worked off to the newest, of the slowest speaker. */
    get lagSeconds(): number {
        const lags = [...this.#speakers.values()].map((speaker) => speaker.lagSamples);
        return Math.max(0, ...lags) / SAMPLE_RATE_HZ;
    }

    #speaker(name: string): Speaker {
        let speaker = this.#speakers.get(name);
        if (!speaker) {
            speaker = new Speaker();
            this.#speakers.set(name, speaker);
        }
        return speaker;
    }

    #keep(speaker: Speaker, message: Message, samples: number): void {
        this.#order += 1;
        speaker.kept.push({
            order: this.#order,
            message,
            endSample: speaker.endSample ?? 0,
            samples,
        });
    }

    #acknowledge(speaker: Speaker, ack: AudioAck): void {
        speaker.ack = ack;
        speaker.processedSample = Math.max(speaker.processedSample, sample(ack.processedOffset));
        for (let at = speaker.oldest; at >= 0; at = speaker.oldest) {
            const chunk = speaker.kept[at]!;
            if (chunk.endSample > speaker.processedSample) {
                return;
            }
            // An event before the chunk has arrived with it; one behind it may not have.
            speaker.kept.splice(0, at + 1);
            speaker.keptSamples -= chunk.samples;
            this.#keptBytes -= (chunk.message as AudioChunk).data.length;
        }
    }
}

function isChunk(message: Message): message is AudioChunk {
    return message.$typeName === "callsd.v1.AudioChunk";
}

function offset(sample: number): Duration {
    return create(DurationSchema, {
        seconds: BigInt(Math.floor(sample / SAMPLE_RATE_HZ)),
        nanos: (sample % SAMPLE_RATE_HZ) * NANOSECONDS_PER_SAMPLE,
    });
}

function sample(offset: Duration | undefined): number {
    return offset === undefined
        ? 0
        : Number(offset.seconds) * SAMPLE_RATE_HZ +
              Math.round(offset.nanos / NANOSECONDS_PER_SAMPLE);
}

function replaced(speaker: string): ConflictError {
    return new ConflictError(
        `another sender has sent sound of ${speaker} while this one was cut off`,
        { code: "ABORTED", reason: "STREAM_REPLACED" },
    );
}
