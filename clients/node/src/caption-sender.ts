// SPDX-License-Identifier: Apache-2.0

/** Sends a call's sound, whatever happens to the connection or the daemon. */

import { create } from "@bufbuild/protobuf";

import { isEarly } from "./caption-watch.js";
import { CallsdError, DeadlineError } from "./errors.js";
import {
    type AudioAck,
    type CaptionsConfig,
    SpeakerEventType,
    type StreamCaptionsRequest,
    StreamCaptionsRequestSchema,
    type StreamCaptionsResponse,
} from "./gen/callsd/v1/caption_pb.js";
import { type Backoff, endedEarly } from "./resume.js";
import type { SentAudio } from "./sent-audio.js";
import { pieces, type Sound } from "./sound.js";

/** How long `close` waits, by default, for the last sound to be worked off. */
const CLOSE_SECONDS = 30;

/** For a server that does not let go of a stream that is at its end. */
const END_SECONDS = 5;

/** Begins a stream; what comes is its answers. */
export type Dial = (
    requests: AsyncIterable<StreamCaptionsRequest>,
    signal: AbortSignal,
) => AsyncIterable<StreamCaptionsResponse>;

/** What a sender is made of. */
export interface SenderParts {
    readonly dial: Dial;
    readonly config: CaptionsConfig;
    readonly audio: SentAudio;
    readonly backoff: Backoff;
    readonly patienceSeconds: number;
}

/**
 * Sends the sound of one call, whatever happens to the connection or the daemon.
 *
 * Sound that was given to `send` is numbered, kept until it is worked off, and sent again where a
 * daemon has lost it: none is left out and none comes twice. When more waits than the sender may
 * keep, `send` resolves later: await each one.
 *
 * `close` at the end of the sound waits until all of it is worked off; `abort`, and leaving a block
 * that holds it by `await using`, disconnects at once.
 *
 * Every method throws what ended the sender, once something has: STREAM_REPLACED when another
 * sender took over the call, JOB_STATE_CONFLICT when the call is over, UNAVAILABLE when the daemon
 * stayed away for longer than the client's patience.
 */
export class CaptionSender implements AsyncDisposable {
    readonly #parts: SenderParts;
    readonly #audio: SentAudio;
    /** Those who wait for something to change; called whenever something has. */
    readonly #waiting = new Set<() => void>();
    /** Cuts the connection that there is. */
    #connection: AbortController | undefined;
    /** Whether the server has told what it has, on this connection. */
    #isResumed = false;
    #isFinished = false;
    #error: Error | undefined;
    #run: Promise<void> = Promise.resolve();
    /** The last of the sends: they take turns. */
    #turn: Promise<void> = Promise.resolve();

    private constructor(parts: SenderParts) {
        this.#parts = parts;
        this.#audio = parts.audio;
    }

    /** Connect; resolves when the server has told what it has of the call. */
    static async connect(
        parts: SenderParts,
        signal: AbortSignal | undefined,
    ): Promise<CaptionSender> {
        const sender = new CaptionSender(parts);
        sender.#run = sender.#keepConnected();
        try {
            await sender.#until(() => sender.#isResumed, parts.patienceSeconds, signal);
        } catch (error) {
            await sender.abort();
            throw error;
        }
        return sender;
    }

    /**
     * Send some of a speaker's sound; resolves when it is kept, at once as a rule.
     *
     * @param speaker - The speaker; the same text each time.
     * @param data - s16le: whole samples, of any length; Opus: one packet. Copied.
     * @param startOffsetSeconds - When it was made, from the start of the call. A pause is silence.
     * @throws {DeadlineError} There was no room for it within the client's patience.
     */
    async send(speaker: string, data: Uint8Array, startOffsetSeconds: number): Promise<void> {
        await this.sendBatch([{ speaker, data, startOffsetSeconds }]);
    }

    /** Send sound of several speakers, in one message if possible; as `send`. */
    async sendBatch(sounds: Iterable<Sound>): Promise<void> {
        const before = this.#turn;
        let end = (): void => {};
        this.#turn = new Promise((resolve) => (end = resolve));
        await before;
        try {
            this.#check();
            for (const sound of sounds) {
                for (const piece of pieces(sound, this.#parts.config.encoding)) {
                    if (!this.#audio.hasRoom(piece)) {
                        this.#notify();
                        await this.#until(
                            () => this.#audio.hasRoom(piece),
                            this.#parts.patienceSeconds,
                        );
                    }
                    this.#audio.add(piece);
                }
            }
            this.#notify();
        } finally {
            end();
        }
    }

    /** A speaker joined, or has another name to show. */
    joined(speaker: string, displayName = ""): void {
        this.#change(speaker, SpeakerEventType.JOINED, displayName);
    }

    /** A speaker's microphone is off: what was said is worked off at once. */
    muted(speaker: string): void {
        this.#change(speaker, SpeakerEventType.MUTED);
    }

    /** A speaker's microphone is on again. */
    unmuted(speaker: string): void {
        this.#change(speaker, SpeakerEventType.UNMUTED);
    }

    /** A speaker has left the call. */
    left(speaker: string): void {
        this.#change(speaker, SpeakerEventType.LEFT);
    }

    /** Sound from the oldest that is not worked off to the newest, of the slowest speaker. */
    get lagSeconds(): number {
        return this.#audio.lagSeconds;
    }

    /** What the server has of each speaker, by its last word. */
    get acks(): ReadonlyMap<string, AudioAck> {
        return this.#audio.acks;
    }

    /**
     * End: everybody stops talking, everything is worked off. The job goes on.
     *
     * @throws {DeadlineError} It was not all worked off in time; the server goes on with what it
     *   has.
     */
    async close(options: { timeoutSeconds?: number; signal?: AbortSignal } = {}): Promise<void> {
        try {
            await this.#turn;
            if (this.#isFinished) {
                return;
            }
            this.#check();
            this.#audio.endSpeech();
            this.#notify();
            const timeoutSeconds = options.timeoutSeconds ?? CLOSE_SECONDS;
            await this.#until(() => this.#audio.isWorkedOff, timeoutSeconds, options.signal);
            this.#isFinished = true;
            this.#notify();
            await within(END_SECONDS, this.#run);
        } finally {
            await this.abort();
        }
    }

    /** Disconnect at once. What is not worked off yet may be lost. */
    async abort(): Promise<void> {
        this.#isFinished = true;
        this.#connection?.abort();
        this.#notify();
        await this.#run;
    }

    /** As `abort`; does nothing after `close`. */
    async [Symbol.asyncDispose](): Promise<void> {
        await this.abort();
    }

    #change(speaker: string, type: SpeakerEventType, displayName = ""): void {
        this.#check();
        this.#audio.change(speaker, type, displayName);
        this.#notify();
    }

    #check(): void {
        if (this.#error) {
            throw this.#error;
        }
        if (this.#isFinished) {
            throw new Error("the sender is closed");
        }
    }

    #notify(): void {
        for (const look of this.#waiting) {
            look();
        }
    }

    /** Wait for a condition, or for the sender's end; whether it was reached in time. */
    async #changed(
        isReached: () => boolean,
        timeoutSeconds: number | undefined,
        signal?: AbortSignal,
    ): Promise<boolean> {
        signal?.throwIfAborted();
        if (isReached()) {
            return true;
        }
        let look = (): void => {};
        let timer: NodeJS.Timeout | undefined;
        try {
            await new Promise<void>((resolve) => {
                look = () => (isReached() || signal?.aborted ? resolve() : undefined);
                this.#waiting.add(look);
                signal?.addEventListener("abort", look);
                timer =
                    timeoutSeconds === undefined
                        ? timer
                        : setTimeout(resolve, timeoutSeconds * 1000);
            });
        } finally {
            clearTimeout(timer);
            signal?.removeEventListener("abort", look);
            this.#waiting.delete(look);
        }
        signal?.throwIfAborted();
        return isReached();
    }

    async #until(
        isReached: () => boolean,
        timeoutSeconds: number,
        signal?: AbortSignal,
    ): Promise<void> {
        const isOver = (): boolean => this.#error !== undefined || this.#isFinished;
        const isInTime = await this.#changed(() => isOver() || isReached(), timeoutSeconds, signal);
        this.#check();
        if (!isInTime) {
            const lag = this.lagSeconds.toFixed(1);
            throw new DeadlineError(
                `${lag} s of sound were not worked off within ${timeoutSeconds} s`,
                {
                    code: "DEADLINE_EXCEEDED",
                },
            );
        }
    }

    // What keeps a connection

    async #keepConnected(): Promise<void> {
        while (!this.#isFinished) {
            let delaySeconds;
            try {
                await this.#converse();
                return;
            } catch (error) {
                try {
                    delaySeconds = this.#delay(error);
                } catch (last) {
                    this.#error = last as Error;
                    this.#notify();
                    return;
                }
            }
            await this.#changed(() => this.#isFinished, delaySeconds);
        }
    }

    #delay(error: unknown): number {
        const known = this.#parts.backoff.known(error);
        if (!(known instanceof CallsdError)) {
            throw known;
        }
        return this.#parts.backoff.failed(known, { isPassing: isEarly(known) });
    }

    /** One stream, to its end; returns when that is the end of all. */
    async #converse(): Promise<void> {
        const connection = new AbortController();
        this.#connection = connection;
        this.#isResumed = false;
        try {
            for await (const { acks } of this.#parts.dial(
                this.#messages(connection),
                connection.signal,
            )) {
                this.#parts.backoff.answered();
                this.#audio.learn(acks, { isFirst: !this.#isResumed });
                this.#isResumed = true;
                this.#notify();
            }
        } catch (error) {
            if (!this.#isFinished) {
                throw error;
            }
        } finally {
            this.#connection = undefined;
            connection.abort();
            this.#notify();
        }
        if (!this.#isFinished) {
            throw endedEarly();
        }
    }

    /** What to send on a connection; asked for when the one before has been taken. */
    async *#messages(connection: AbortController): AsyncGenerator<StreamCaptionsRequest> {
        const isCurrent = (): boolean => this.#connection === connection;
        yield create(StreamCaptionsRequestSchema, {
            message: { case: "config", value: this.#parts.config },
        });
        for (;;) {
            // Without a limit: a connection always ends, and wakes us then.
            await this.#changed(
                () =>
                    !isCurrent() ||
                    (this.#isResumed && (this.#audio.hasUnsent || this.#isFinished)),
                undefined,
            );
            const message = isCurrent() ? this.#audio.nextMessage() : undefined;
            if (message === undefined) {
                return;
            }
            yield message;
        }
    }
}

async function within(seconds: number, end: Promise<void>): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, seconds * 1000)));
    await Promise.race([end, late]);
    clearTimeout(timer);
}
