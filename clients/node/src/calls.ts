// SPDX-License-Identifier: Apache-2.0

/** How requests are made: tokens, deadlines, retries, resuming. */

import { setMaxListeners } from "node:events";

import type { CallOptions as ConnectOptions } from "@connectrpc/connect";
import { createClient } from "@connectrpc/connect";

import type { Endpoint } from "./endpoint.js";
import {
    CallsdError,
    ConflictError,
    DeadlineError,
    NotFoundError,
    typedError,
    UnavailableError,
} from "./errors.js";
import { CaptionService } from "./gen/callsd/v1/caption_pb.js";
import { JobService } from "./gen/callsd/v1/job_pb.js";
import { MediaService, type Upload } from "./gen/callsd/v1/media_pb.js";
import { ModelService } from "./gen/callsd/v1/model_pb.js";
import { ServerService } from "./gen/callsd/v1/server_pb.js";
import { Health } from "./gen/grpc/health/v1/health_pb.js";
import type { CallOptions } from "./requests.js";
import type { Resumable } from "./resume.js";
import { now, sleep } from "./time.js";
import {
    type Connection,
    DOWNLOAD_WINDOW_BYTES,
    openConnection,
    WATCH_WINDOW_BYTES,
} from "./transport.js";
import type { Uploading } from "./upload.js";

/** Deadline of a request with one answer that gives none. */
export const DEFAULT_TIMEOUT_SECONDS = 10;

/** The first try included. */
const MAX_ATTEMPTS = 4;
const FIRST_RETRY_SECONDS = 0.1;
const MAX_RETRY_SECONDS = 2;

/** A method of a service, as the generated clients have it. */
type Method<Request, Answer> = (request: Request, options: ConnectOptions) => Answer;

/** Two connections to one daemon, its services, and the ways of calling them. */
export class Calls {
    readonly #endpoint: Endpoint;
    readonly #timeoutSeconds: number;
    readonly #connections: readonly Connection[];
    readonly #closed = new AbortController();
    #hasAnswered = false;
    readonly jobs;
    readonly media;
    readonly models;
    readonly server;
    readonly captions;
    readonly health;
    readonly jobWatches;
    readonly serverWatches;
    readonly captionWatches;

    constructor(endpoint: Endpoint, timeoutSeconds: number) {
        this.#endpoint = endpoint;
        this.#timeoutSeconds = timeoutSeconds;
        const usual = openConnection(endpoint, DOWNLOAD_WINDOW_BYTES);
        const watching = openConnection(endpoint, WATCH_WINDOW_BYTES);
        this.#connections = [usual, watching];
        const { transport } = usual;
        this.jobs = createClient(JobService, transport);
        this.media = createClient(MediaService, transport);
        this.models = createClient(ModelService, transport);
        this.server = createClient(ServerService, transport);
        this.captions = createClient(CaptionService, transport);
        this.health = createClient(Health, transport);
        this.jobWatches = createClient(JobService, watching.transport);
        this.serverWatches = createClient(ServerService, watching.transport);
        this.captionWatches = createClient(CaptionService, watching.transport);
    }

    /** Whether there is a daemon at the endpoint, or was one. */
    get hasAnswered(): boolean {
        return this.#hasAnswered;
    }

    /** End all requests and disconnect. */
    close(): void {
        if (!this.#closed.signal.aborted) {
            this.#closed.abort(
                new ConflictError("the client is closed", { code: "FAILED_PRECONDITION" }),
            );
            this.#connections.forEach((connection) => connection.close());
        }
    }

    /** One question, one answer, one deadline; only what may happen twice is retried. */
    async unary<Request, Answer>(
        method: Method<Request, Promise<Answer>>,
        request: Request,
        options: CallOptions | undefined,
        { isRetried = false } = {},
    ): Promise<Answer> {
        const deadline = now() + (options?.timeoutSeconds ?? this.#timeoutSeconds);
        for (let attempt = 1; ; attempt++) {
            try {
                const answer = await this.#during(options?.signal, async (signal) =>
                    method(request, await this.#options(signal, deadline - now())),
                );
                this.#hasAnswered = true;
                return answer;
            } catch (error) {
                const limit = Math.min(FIRST_RETRY_SECONDS * 2 ** (attempt - 1), MAX_RETRY_SECONDS);
                const known =
                    error instanceof UnavailableError ? (error.retryAfterSeconds ?? 0) : 0;
                const delay = Math.max(limit * (0.5 + Math.random() / 2), known);
                const isWorthIt = error instanceof UnavailableError && now() + delay < deadline;
                if (!isRetried || attempt === MAX_ATTEMPTS || !isWorthIt) {
                    throw error;
                }
                await sleep(delay, options?.signal);
            }
        }
    }

    /** Drive a resumable stream to its end. */
    async *stream<Request, Response, Item>(
        method: Method<Request, AsyncIterable<Response>>,
        stream: Resumable<Request, Response, Item>,
        signal: AbortSignal | undefined,
    ): AsyncGenerator<Item, void, undefined> {
        for (;;) {
            let delaySeconds = 0;
            // The deadline is ours to keep: the transport's own would outlive a loop that is left.
            const scope = new Scope([signal, this.#closed.signal], stream.backoff.remainingSeconds);
            try {
                const options = await this.#options(scope.signal, undefined);
                for await (const response of method(stream.request(), options)) {
                    this.#hasAnswered = true;
                    stream.backoff.answered();
                    yield* stream.receive(response);
                }
                stream.ended();
                return;
            } catch (error) {
                const known = stream.backoff.known(this.#known(error, scope));
                if (!(known instanceof CallsdError)) {
                    throw known;
                }
                const [delay, items] = stream.failed(known);
                delaySeconds = delay;
                yield* items;
            } finally {
                scope.end();
            }
            await this.#during(signal, (both) => sleep(delaySeconds, both));
        }
    }

    /** A conversation: what comes for what is sent; the caller handles its failures. */
    async *converse<Request, Response>(
        method: Method<AsyncIterable<Request>, AsyncIterable<Response>>,
        requests: AsyncIterable<Request>,
        signal: AbortSignal,
    ): AsyncGenerator<Response, void, undefined> {
        const scope = new Scope([signal, this.#closed.signal]);
        try {
            yield* method(requests, await this.#options(scope.signal, undefined));
        } catch (error) {
            throw this.#known(error, scope);
        } finally {
            scope.end();
        }
    }

    /** Drive an upload to its end. */
    async upload(uploading: Uploading, signal: AbortSignal | undefined): Promise<Upload> {
        for (;;) {
            let delaySeconds;
            try {
                const complete = uploading.found(await this.#existing(uploading.name, signal));
                if (complete) {
                    return complete;
                }
                const { upload } = await this.#during(signal, async (both) =>
                    this.media.uploadMedia(
                        uploading.messages(),
                        await this.#options(both, undefined),
                    ),
                );
                return upload!;
            } catch (error) {
                if (!(error instanceof CallsdError)) {
                    throw error;
                }
                delaySeconds = uploading.failed(error);
            }
            await this.#during(signal, (both) => sleep(delaySeconds, both));
        }
    }

    async #existing(name: string, signal: AbortSignal | undefined): Promise<Upload | undefined> {
        try {
            const answer = await this.unary(
                this.media.getUpload,
                { name },
                { signal },
                { isRetried: true },
            );
            return answer.upload;
        } catch (error) {
            if (error instanceof NotFoundError) {
                return undefined;
            }
            throw error;
        }
    }

    /** Do something that ends with the caller's signal or with the client. */
    async #during<Result>(
        signal: AbortSignal | undefined,
        action: (signal: AbortSignal) => Promise<Result>,
    ): Promise<Result> {
        const scope = new Scope([signal, this.#closed.signal]);
        try {
            return await action(scope.signal);
        } catch (error) {
            throw this.#known(error, scope);
        } finally {
            scope.end();
        }
    }

    async #options(
        signal: AbortSignal,
        timeoutSeconds: number | undefined,
    ): Promise<ConnectOptions> {
        signal.throwIfAborted();
        const headers = await this.#endpoint.headers();
        return timeoutSeconds === undefined
            ? { headers, signal }
            : { headers, signal, timeoutMs: Math.max(Math.ceil(timeoutSeconds * 1000), 1) };
    }

    /** What an error is to the caller; what the caller or `close` ended has their reason. */
    #known(error: unknown, scope: Scope): unknown {
        return scope.signal.aborted
            ? scope.signal.reason
            : typedError(error, this.#endpoint.address);
    }
}

/**
 * A signal for one request, aborted by any of several that live longer; `end` releases them.
 */
class Scope {
    readonly #controller = new AbortController();
    readonly #sources: readonly AbortSignal[];
    readonly #abort: (event: Event) => void;
    readonly #timer: NodeJS.Timeout | undefined;

    constructor(sources: readonly (AbortSignal | undefined)[], timeoutSeconds?: number) {
        this.#sources = sources.filter((source) => source !== undefined);
        this.#abort = (event) => this.#controller.abort((event.target as AbortSignal).reason);
        for (const source of this.#sources) {
            if (source.aborted) {
                this.#controller.abort(source.reason);
            }
            // As many as there are open requests: no leak to be warned of.
            setMaxListeners(0, source);
            source.addEventListener("abort", this.#abort);
        }
        if (timeoutSeconds !== undefined) {
            const message = "the time given has passed";
            const late = () => new DeadlineError(message, { code: "DEADLINE_EXCEEDED" });
            this.#timer = setTimeout(() => this.#controller.abort(late()), timeoutSeconds * 1000);
        }
    }

    get signal(): AbortSignal {
        return this.#controller.signal;
    }

    /** Let go of the sources, and end what still uses the signal. */
    end(): void {
        clearTimeout(this.#timer);
        for (const source of this.#sources) {
            source.removeEventListener("abort", this.#abort);
        }
        this.#controller.abort();
    }
}
