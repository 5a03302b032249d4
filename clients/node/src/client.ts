// SPDX-License-Identifier: Apache-2.0

/** The client. */

import { create } from "@bufbuild/protobuf";

import { Calls, DEFAULT_TIMEOUT_SECONDS } from "./calls.js";
import { CaptionSender, type SenderParts } from "./caption-sender.js";
import { CaptionWatch } from "./caption-watch.js";
import { Download, LogReading } from "./download.js";
import { Endpoint, type EndpointOptions } from "./endpoint.js";
import type { Capacity } from "./gen/callsd/v1/capacity_pb.js";
import {
    AudioEncoding,
    CaptionsConfigSchema,
    type WatchCaptionsResponse,
} from "./gen/callsd/v1/caption_pb.js";
import type { Artifact, Job } from "./gen/callsd/v1/job_pb.js";
import type { Upload } from "./gen/callsd/v1/media_pb.js";
import type { Model, PullModelResponse } from "./gen/callsd/v1/model_pb.js";
import type { ServerInfo } from "./gen/callsd/v1/server_pb.js";
import { HealthCheckResponse_ServingStatus as ServingStatus } from "./gen/grpc/health/v1/health_pb.js";
import {
    type CallOptions,
    type CreatedJob,
    createJobRequest,
    type CreateJobOptions,
    fullFilter,
    type JobFilter,
    jobName,
    type JobRef,
    type JobSpec,
} from "./requests.js";
import { Backoff, DEFAULT_PATIENCE_SECONDS, oneCall } from "./resume.js";
import { SentAudio } from "./sent-audio.js";
import { type OnProgress, readLocalFile, Uploading } from "./upload.js";
import { CapacityWatch, FINAL_STATES, JobEnding, JobWatch, type WatchEvent } from "./watch.js";

/** VerifyModel hashes gigabytes and transcribes a sample. */
const VERIFY_TIMEOUT_SECONDS = 600;

/** Which daemon, and how long to wait for it. */
export interface ClientOptions extends EndpointOptions {
    /** Deadline of a request with one answer that gives none. Unit: seconds. Default: 10. */
    readonly timeoutSeconds?: number | undefined;
    /** How long streams wait for a daemon that has gone away. Unit: seconds. Default: 300. */
    readonly patienceSeconds?: number | undefined;
}

const ONCE = { isRetried: false };
/** Only what may safely happen twice: reads, and CreateJob by its request id. */
const RETRIED = { isRetried: true };

/**
 * A connection to one daemon; connects with the first request.
 *
 * What fails throws `CallsdError` or one of its subclasses; what a signal ends throws the signal's
 * reason. Requests with one answer have a deadline; streams go on over lost connections and restarts
 * of the daemon, until it has not answered for `patienceSeconds`.
 */
export class Client implements Disposable {
    readonly endpoint: Endpoint;
    readonly #calls: Calls;
    readonly #patienceSeconds: number;

    /** @throws {SettingsError} The address is malformed or a file cannot be read. */
    constructor(options: ClientOptions = {}) {
        this.endpoint = new Endpoint(options);
        this.#calls = new Calls(this.endpoint, options.timeoutSeconds ?? DEFAULT_TIMEOUT_SECONDS);
        this.#patienceSeconds = options.patienceSeconds ?? DEFAULT_PATIENCE_SECONDS;
    }

    /** End all requests and disconnect. */
    close(): void {
        this.#calls.close();
    }

    [Symbol.dispose](): void {
        this.close();
    }

    // Jobs

    /** Ask for a job. The answer has the job and what admission said to it. */
    async createJob(spec: JobSpec, options: CreateJobOptions = {}): Promise<CreatedJob> {
        const request = createJobRequest(spec, options);
        const answer = await this.#calls.unary(
            this.#calls.jobs.createJob,
            request,
            options,
            RETRIED,
        );
        return answer as CreatedJob;
    }

    /** One job as it is now. */
    async getJob(job: JobRef, options?: CallOptions): Promise<Job> {
        const request = { name: jobName(job) };
        return (await this.#calls.unary(this.#calls.jobs.getJob, request, options, RETRIED)).job!;
    }

    /** All jobs that match, newest first; pages are fetched as they are needed. */
    async *listJobs(
        filter?: JobFilter,
        options: CallOptions & { readonly pageSize?: number | undefined } = {},
    ): AsyncGenerator<Job, void, undefined> {
        const { pageSize = 0 } = options;
        let pageToken = "";
        do {
            const request = { filter: fullFilter(filter), pageSize, pageToken };
            const page = await this.#calls.unary(
                this.#calls.jobs.listJobs,
                request,
                options,
                RETRIED,
            );
            yield* page.jobs;
            pageToken = page.nextPageToken;
        } while (pageToken);
    }

    /** End a job; the answer may still be STOPPING (see `waitJob`). */
    async stopJob(
        job: JobRef,
        options: CallOptions & { readonly etag?: string | undefined } = {},
    ): Promise<Job> {
        const request = { name: jobName(job), etag: options.etag ?? "" };
        return (await this.#calls.unary(this.#calls.jobs.stopJob, request, options, ONCE)).job!;
    }

    /** Remove a finished job with its log and artifacts. */
    async deleteJob(
        job: JobRef,
        options: CallOptions & { readonly etag?: string | undefined } = {},
    ): Promise<void> {
        const request = { name: jobName(job), etag: options.etag ?? "" };
        await this.#calls.unary(this.#calls.jobs.deleteJob, request, options, ONCE);
    }

    /** Deliver what a finished job has made, now, with a new token if there is one. */
    async publishJob(
        job: JobRef,
        options: CallOptions & { readonly token?: string | undefined } = {},
    ): Promise<Job> {
        const request = { name: jobName(job), token: options.token ?? "" };
        return (await this.#calls.unary(this.#calls.jobs.publishJob, request, options, ONCE)).job!;
    }

    /**
     * Matching jobs as they are now, then each change: in order, without gap or repetition.
     *
     * Goes on over lost connections and restarts, and says so by `interrupted`. Never ends by
     * itself: leave the loop, or abort the signal. With `timeoutSeconds` it ends by `DeadlineError`.
     *
     * @param filter - Which jobs; its `states` must be empty.
     * @param options.resume - A bookmark's position of an earlier watch: only what came after it.
     *   When the server no longer has it, `OutOfRangeError`: begin again without.
     */
    watchJobs(
        filter?: JobFilter,
        options: CallOptions & { readonly resume?: string | undefined } = {},
    ): AsyncGenerator<WatchEvent, void, undefined> {
        const watch = new JobWatch(fullFilter(filter), options.resume, this.#backoff(options));
        return this.#calls.stream(this.#calls.jobWatches.watchJobs, watch, options.signal);
    }

    /**
     * Wait until a job has ended; returns it in its final state, whichever that is.
     *
     * @throws {NotFoundError} There is no such job, or it was deleted meanwhile.
     * @throws {DeadlineError} It has not ended within `timeoutSeconds`. Default: no limit.
     */
    async waitJob(job: JobRef, options: CallOptions = {}): Promise<Job> {
        const found = await this.getJob(job, { signal: options.signal });
        if (FINAL_STATES.has(found.state)) {
            return found;
        }
        const { name } = found;
        const ending = new JobEnding(name);
        for await (const event of this.watchJobs({ names: [name] }, options)) {
            const ended = ending.observe(event);
            if (ended) {
                return ended;
            }
        }
        throw new Error("a watch does not end by itself");
    }

    /**
     * A job's log in pieces, which may cut a character.
     *
     * @param options.offset - Begin at this byte. Default: 0.
     * @param options.follow - Wait for more until the job has ended.
     */
    readLog(
        job: JobRef,
        options: {
            readonly offset?: number | undefined;
            readonly follow?: boolean | undefined;
            readonly signal?: AbortSignal | undefined;
        } = {},
    ): AsyncGenerator<Uint8Array, void, undefined> {
        const { offset = 0, follow = false, signal } = options;
        const request = { name: jobName(job), offset: BigInt(offset), follow };
        const reading = new LogReading(request, this.#backoff());
        return this.#calls.stream(this.#calls.jobWatches.readLog, reading, signal);
    }

    /**
     * Store one artifact of a job as `destination`: whole and verified, or not at all.
     *
     * @param file - Name of the artifact, such as `transcript.vtt`.
     * @param destination - The file to write; replaced if it exists.
     * @throws {IntegrityError} What arrived is not what was announced.
     */
    async fetchArtifact(
        job: JobRef,
        file: string,
        destination: string,
        options: {
            readonly onProgress?: OnProgress | undefined;
            readonly signal?: AbortSignal | undefined;
        } = {},
    ): Promise<Artifact> {
        const { onProgress, signal } = options;
        const name = `${jobName(job)}/artifacts/${file}`;
        const backoff = this.#backoff();
        const download = await Download.begin(name, { destination, onProgress, backoff });
        try {
            for await (const data of this.#calls.stream(
                this.#calls.jobs.fetchArtifact,
                download,
                signal,
            )) {
                await download.write(data);
            }
            return await download.finish();
        } finally {
            await download.discard();
        }
    }

    // Captions

    /**
     * Begin to send the sound of a call to its captions job; resolves when it is connected.
     *
     * The sender goes on where an earlier one of the same job was: it numbers what it sends after
     * what the server has received (see `CaptionSender.acks`).
     *
     * @param job - The job, made with `{ captions }`. Stop it when the call is over.
     * @param options.encoding - How all of the call's sound is coded. Default: s16le at 16 kHz.
     * @param options.keepSeconds - How much sound of one speaker may wait to be worked off before
     *   `send` waits. Default: 60.
     * @param options.signal - Ends the wait for the connection.
     * @throws {ConflictError} The job is not one that takes sound now.
     */
    async streamCaptions(
        job: JobRef,
        options: {
            readonly encoding?: AudioEncoding | undefined;
            readonly keepSeconds?: number | undefined;
            readonly signal?: AbortSignal | undefined;
        } = {},
    ): Promise<CaptionSender> {
        const { encoding = AudioEncoding.S16LE_16KHZ, keepSeconds } = options;
        const calls = this.#calls;
        const parts: SenderParts = {
            dial: (requests, signal) =>
                calls.converse(calls.captions.streamCaptions, requests, signal),
            config: create(CaptionsConfigSchema, { job: jobName(job), encoding }),
            audio: new SentAudio(keepSeconds),
            backoff: this.#backoff(),
            patienceSeconds: this.#patienceSeconds,
        };
        return CaptionSender.connect(parts, options.signal);
    }

    /**
     * A call's captions and events as they come, to the end of its job.
     *
     * Goes on over lost connections and restarts: each final caption comes once, in order, none is
     * left out. Interim ones just go on. A message with neither caption nor event tells the lag.
     * The job's captions are also there after its end.
     *
     * @param options.resumeSequence - Only final captions behind this number; 0 is all of them.
     *   Default: the last 10.
     * @param options.finalsOnly - Leave interim captions out.
     */
    watchCaptions(
        job: JobRef,
        options: CallOptions & {
            readonly resumeSequence?: number | bigint | undefined;
            readonly finalsOnly?: boolean | undefined;
        } = {},
    ): AsyncGenerator<WatchCaptionsResponse, void, undefined> {
        const { resumeSequence: after, finalsOnly = false, signal } = options;
        const watch = new CaptionWatch(jobName(job), {
            resumeSequence: after === undefined ? undefined : BigInt(after),
            finalsOnly,
            backoff: this.#backoff(options),
        });
        return this.#calls.stream(this.#calls.captionWatches.watchCaptions, watch, signal);
    }

    // Uploads

    /**
     * Send a file; put the result's `name` in a track's `upload`.
     *
     * @param path - The file; it must not change meanwhile.
     * @param options.uploadId - UUID of an upload begun before, to go on with it. Default: new.
     */
    async uploadMedia(
        path: string,
        options: {
            readonly uploadId?: string | undefined;
            readonly onProgress?: OnProgress | undefined;
            readonly signal?: AbortSignal | undefined;
        } = {},
    ): Promise<Upload> {
        const { uploadId: id, onProgress, signal } = options;
        const file = await readLocalFile(path, signal);
        const uploading = new Uploading(file, { id, onProgress, backoff: this.#backoff() });
        return this.#calls.upload(uploading, signal);
    }

    /** Remove an upload that no job needs. */
    async deleteUpload(
        upload: string | Pick<Upload, "name">,
        options?: CallOptions,
    ): Promise<void> {
        const request = { name: typeof upload === "string" ? upload : upload.name };
        await this.#calls.unary(this.#calls.media.deleteUpload, request, options, ONCE);
    }

    // Models

    /** The catalogue, and what of it is present. */
    async listModels(options?: CallOptions): Promise<Model[]> {
        return (await this.#calls.unary(this.#calls.models.listModels, {}, options, RETRIED))
            .models;
    }

    /**
     * Have the server fetch a model; yields how far it is, last with `model` set.
     *
     * Leaving the loop ends the pull. A pull is not resumed when the connection breaks.
     *
     * @param options.source - Only from this source. Default: each in turn.
     */
    pullModel(
        name: string,
        options: {
            readonly source?: string | undefined;
            readonly signal?: AbortSignal | undefined;
        } = {},
    ): AsyncGenerator<PullModelResponse, void, undefined> {
        const request = { name, source: options.source ?? "" };
        return this.#calls.stream(this.#calls.models.pullModel, oneCall(request), options.signal);
    }

    /** Have the server check a model's files and transcribe a sample; takes up to 10 minutes. */
    async verifyModel(name: string, options: CallOptions = {}): Promise<Model> {
        const { signal, timeoutSeconds = VERIFY_TIMEOUT_SECONDS } = options;
        const { verifyModel } = this.#calls.models;
        return (await this.#calls.unary(verifyModel, { name }, { signal, timeoutSeconds }, ONCE))
            .model!;
    }

    // Server

    /** Whether the daemon says that it is well; needs no token. */
    async isServing(options?: CallOptions): Promise<boolean> {
        const { status } = await this.#calls.unary(this.#calls.health.check, {}, options, ONCE);
        return status === ServingStatus.SERVING;
    }

    /** Versions, limits and features. */
    async getServerInfo(options?: CallOptions): Promise<ServerInfo> {
        const { getServerInfo } = this.#calls.server;
        return (await this.#calls.unary(getServerInfo, {}, options, RETRIED)).serverInfo!;
    }

    /** What the machine can carry now. */
    async getCapacity(options?: CallOptions): Promise<Capacity> {
        return (await this.#calls.unary(this.#calls.server.getCapacity, {}, options, RETRIED))
            .capacity!;
    }

    /** The capacity now, and then whenever it changes; goes on over lost connections. */
    watchCapacity(options: CallOptions = {}): AsyncGenerator<Capacity, void, undefined> {
        const watch = new CapacityWatch(this.#backoff(options));
        return this.#calls.stream(this.#calls.serverWatches.watchCapacity, watch, options.signal);
    }

    #backoff(options: CallOptions = {}): Backoff {
        const { timeoutSeconds } = options;
        return new Backoff({
            patienceSeconds: this.#patienceSeconds,
            timeoutSeconds,
            isKnown: this.#calls.hasAnswered,
        });
    }
}
