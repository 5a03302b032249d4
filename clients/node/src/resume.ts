// SPDX-License-Identifier: Apache-2.0

/**
 * Streams that outlive a connection: when to come back, and from where.
 *
 * A `Resumable` knows what to ask for next and what an answer means, but does no I/O: `Calls` has
 * one loop that drives any of them.
 */

import { CallsdError, DeadlineError, SettingsError, UnavailableError } from "./errors.js";
import { now } from "./time.js";

/** A restart takes about a second: the first tries come quickly, later ones spare the server. */
const FIRST_DELAY_SECONDS = 0.1;
const MAX_DELAY_SECONDS = 5;

/** How long a stream waits for a server that has answered to come back. */
export const DEFAULT_PATIENCE_SECONDS = 300;

/**
 * Statuses that say "this stream is over", not "this request is wrong". A server that stops
 * abruptly cancels its streams; a cancellation of our own never arrives here as a status.
 */
const RETRIED_CODES: ReadonlySet<string> = new Set(["UNAVAILABLE", "CANCELLED"]);
const RETRIED_REASONS: ReadonlySet<string> = new Set(["SLOW_CONSUMER", "STREAMS_EXHAUSTED"]);

/**
 * Decides after each failure whether to come back, and when.
 *
 * A stream to a server that never answered fails at once: its address is probably wrong. Any other
 * is resumed until `patienceSeconds` have gone by without an answer.
 */
export class Backoff {
    readonly #patienceSeconds: number;
    readonly #clock: () => number;
    readonly #jitter: () => number;
    readonly #deadline: number | undefined;
    #failures = 0;
    #lastAnswer: number | undefined;
    #hasBegun = false;

    constructor(options: {
        patienceSeconds: number;
        /** For the whole stream. Default: no limit. */
        timeoutSeconds?: number | undefined;
        /** The server has answered before, to another request. */
        isKnown?: boolean;
        clock?: () => number;
        jitter?: () => number;
    }) {
        this.#patienceSeconds = options.patienceSeconds;
        this.#clock = options.clock ?? now;
        this.#jitter = options.jitter ?? Math.random;
        this.#lastAnswer = options.isKnown ? this.#clock() : undefined;
        this.#deadline =
            options.timeoutSeconds === undefined
                ? undefined
                : this.#clock() + options.timeoutSeconds;
    }

    /** Time left for the whole stream; undefined without a limit. */
    get remainingSeconds(): number | undefined {
        return this.#deadline === undefined
            ? undefined
            : Math.max(this.#deadline - this.#clock(), 0);
    }

    /** Take note that the server answered. */
    answered(): void {
        this.#failures = 0;
        this.#lastAnswer = this.#clock();
        this.#hasBegun = true;
    }

    /**
     * What an error is to a stream that has begun: a token file that is gone has gone with its
     * daemon's directory, and comes back with it.
     */
    known(error: unknown): unknown {
        const isGone =
            error instanceof SettingsError &&
            (error.cause as NodeJS.ErrnoException | undefined)?.code === "ENOENT";
        return isGone && this.#hasBegun
            ? new UnavailableError(error.message, { code: "UNAVAILABLE", cause: error })
            : error;
    }

    /**
     * Seconds to wait before the next try.
     *
     * @param error - What went wrong.
     * @param isPassing - Another try may help although the error does not look like it.
     * @throws `error` itself, when another try is of no use or patience is at its end.
     */
    failed(error: CallsdError, { isPassing = false } = {}): number {
        const isPutOff = this.#hasBegun && RETRIED_REASONS.has(error.reason);
        const isOver = RETRIED_CODES.has(error.code) || isPutOff;
        const now = this.#clock();
        const since = this.#lastAnswer === undefined ? Infinity : now - this.#lastAnswer;
        if (!(isPassing || isOver) || since > this.#patienceSeconds) {
            throw error;
        }
        const limit = Math.min(FIRST_DELAY_SECONDS * 2 ** this.#failures, MAX_DELAY_SECONDS);
        this.#failures += 1;
        // Half fixed, half random: clients cut off together do not come back together.
        const delay = Math.max(limit * (0.5 + this.#jitter() / 2), error.retryAfterSeconds ?? 0);
        if (this.#deadline !== undefined && now + delay >= this.#deadline) {
            throw new DeadlineError(
                `the time given has passed; the last failure was: ${error.message}`,
                { code: "DEADLINE_EXCEEDED", cause: error },
            );
        }
        return delay;
    }
}

/** One logical stream over as many requests as it takes. */
export interface Resumable<Request, Response, Item> {
    readonly backoff: Backoff;

    /** What to ask for now, given all that was received. */
    request(): Request;

    /** What a message brings that was not seen before. */
    receive(response: Response): Iterable<Item>;

    /**
     * Seconds to wait before the next try, and what the reader should know of this.
     *
     * @throws `error` itself, when the stream cannot go on.
     */
    failed(error: CallsdError): [delaySeconds: number, items: Iterable<Item>];

    /**
     * The server ended the stream without an error: returns if that is the end of the stream.
     *
     * @throws {UnavailableError} It is not; handled as any other failure.
     */
    ended(): void;
}

/** The server ended a stream that was not at its end. */
export function endedEarly(): UnavailableError {
    return new UnavailableError("the server ended the stream before its end", {
        code: "UNAVAILABLE",
    });
}

/** A stream that does not outlive its request: it hands on what it gets. */
export function oneCall<Request, Item>(request: Request): Resumable<Request, Item, Item> {
    return {
        backoff: new Backoff({ patienceSeconds: 0 }),
        request: () => request,
        receive: (item) => [item],
        failed: (error) => {
            throw error;
        },
        ended: () => undefined,
    };
}
