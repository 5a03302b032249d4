// SPDX-License-Identifier: Apache-2.0

/** Following jobs: one gap-free sequence of events over any number of connections. */

import type { MessageInitShape } from "@bufbuild/protobuf";

import { CallsdError, NotFoundError, OutOfRangeError } from "./errors.js";
import type { Capacity } from "./gen/callsd/v1/capacity_pb.js";
import {
    type Job,
    type JobFilterSchema,
    JobState,
    type WatchJobsRequestSchema,
    type WatchJobsResponse,
} from "./gen/callsd/v1/job_pb.js";
import type { WatchCapacityResponse } from "./gen/callsd/v1/server_pb.js";
import { type Backoff, endedEarly, type Resumable } from "./resume.js";

/** States that a job never leaves. */
export const FINAL_STATES: ReadonlySet<JobState> = new Set([
    JobState.SUCCEEDED,
    JobState.FAILED,
    JobState.CANCELLED,
]);

const POSITION_LOST: ReadonlySet<string> = new Set(["REVISION_COMPACTED", "REVISION_UNKNOWN"]);

/** A job is new, or is not what it was. */
export interface JobChanged {
    readonly type: "changed";
    /** The whole job as it is now. */
    readonly job: Job;
    readonly revision: bigint;
}

/** A job is no longer there. */
export interface JobDeleted {
    readonly type: "deleted";
    readonly name: string;
    readonly revision: bigint;
}

/**
 * All changes up to `position` have been yielded.
 *
 * The first one ends the initial state; an idle watch yields one every 10 s.
 */
export interface Bookmark {
    readonly type: "bookmark";
    /** Text to keep; a later watch goes on from there (`resume`). */
    readonly position: string;
}

/** The connection broke. Nothing is lost: the watch goes on by itself. */
export interface Interrupted {
    readonly type: "interrupted";
    readonly error: CallsdError;
    /** When the next try is made. */
    readonly retrySeconds: number;
}

/** What a watch yields. */
export type WatchEvent = JobChanged | JobDeleted | Bookmark | Interrupted;

/** A point in a database's history. */
interface Position {
    readonly databaseId: string;
    readonly revision: bigint;
}

type WatchJobsRequest = MessageInitShape<typeof WatchJobsRequestSchema>;

/**
 * Turns the answers of one or more WatchJobs streams into one sequence of events.
 *
 * It resumes from the last revision it has seen in full. Where the server no longer has that
 * revision (or has another database), it takes a fresh snapshot and yields the difference to what
 * was yielded before: only what has changed, and a deletion for each job that has gone. A watch
 * that began with `resume` cannot know which jobs have gone, so it fails instead.
 */
export class JobWatch implements Resumable<WatchJobsRequest, WatchJobsResponse, WatchEvent> {
    readonly backoff: Backoff;
    readonly #filter: MessageInitShape<typeof JobFilterSchema>;
    readonly #knowsAll: boolean;
    #position: Position | undefined;
    #databaseId: string;
    /** Revision of each job as it was yielded last. Grows with the jobs that match the filter. */
    readonly #seen = new Map<string, bigint>();
    /** Jobs of the snapshot being received; undefined while changes are received. */
    #snapshot: Set<string> | undefined;

    constructor(
        filter: MessageInitShape<typeof JobFilterSchema>,
        resume: string | undefined,
        backoff: Backoff,
    ) {
        this.backoff = backoff;
        this.#filter = filter;
        this.#position = resume === undefined ? undefined : parsePosition(resume);
        this.#knowsAll = resume === undefined;
        this.#databaseId = this.#position?.databaseId ?? "";
    }

    request(): WatchJobsRequest {
        if (this.#position === undefined) {
            this.#snapshot = new Set();
            return { filter: this.#filter };
        }
        this.#snapshot = undefined;
        return {
            filter: this.#filter,
            resumeRevision: this.#position.revision,
            databaseId: this.#position.databaseId,
        };
    }

    *receive(response: WatchJobsResponse): Generator<WatchEvent> {
        const { databaseId, revision } = response;
        if (databaseId !== this.#databaseId) {
            // Revisions of another database say nothing about what was yielded from this one.
            for (const name of this.#seen.keys()) {
                this.#seen.set(name, -1n);
            }
            this.#databaseId = databaseId;
        }
        for (const { event, revision } of response.events) {
            if (event.case === "jobChanged") {
                yield* this.#changed(event.value, revision);
            } else if (event.case === "jobDeleted") {
                yield* this.#deleted(event.value, revision);
            } // else an event of a kind newer than this client
        }
        if (this.#snapshot && response.initialStateSent) {
            const gone = [...this.#seen.keys()].filter((name) => !this.#snapshot?.has(name));
            for (const name of gone) {
                yield* this.#deleted(name, revision);
            }
            this.#snapshot = undefined;
        }
        if (!this.#snapshot) {
            // Not before: half a snapshot is not a point to resume from.
            this.#position = { databaseId, revision };
            yield { type: "bookmark", position: `${databaseId}/${revision}` };
        }
    }

    failed(error: CallsdError): [number, WatchEvent[]] {
        if (POSITION_LOST.has(error.reason) && this.#knowsAll && this.#position) {
            this.#position = undefined;
            return [0, []];
        }
        const retrySeconds = this.backoff.failed(error);
        return [retrySeconds, [{ type: "interrupted", error, retrySeconds }]];
    }

    ended(): void {
        throw endedEarly();
    }

    *#changed(job: Job, revision: bigint): Generator<WatchEvent> {
        this.#snapshot?.add(job.name);
        if ((this.#seen.get(job.name) ?? -1n) < job.revision) {
            this.#seen.set(job.name, job.revision);
            yield { type: "changed", job, revision };
        }
    }

    *#deleted(name: string, revision: bigint): Generator<WatchEvent> {
        const wasSeen = this.#seen.delete(name);
        this.#snapshot?.delete(name);
        // The server cannot tell whether a job that is gone matched the filter; we can.
        if (wasSeen || !this.#knowsAll) {
            yield { type: "deleted", name, revision };
        }
    }
}

/** Waits, by the events of a watch on one job alone, for that job's end. */
export class JobEnding {
    readonly #name: string;
    #wasSeen = false;

    constructor(name: string) {
        this.#name = name;
    }

    /**
     * Learn from the next event; the job once it has ended.
     *
     * @throws {NotFoundError} The job has been deleted.
     */
    observe(event: WatchEvent): Job | undefined {
        if (event.type === "changed") {
            this.#wasSeen = true;
            return FINAL_STATES.has(event.job.state) ? event.job : undefined;
        }
        if (event.type === "deleted" || (event.type === "bookmark" && !this.#wasSeen)) {
            throw new NotFoundError(`${this.#name} was deleted while it was waited for`, {
                code: "NOT_FOUND",
                reason: "JOB_NOT_FOUND",
                metadata: { name: this.#name },
            });
        }
        return undefined;
    }
}

/** The newest capacity; each request begins with it, so that there is nothing to resume. */
export class CapacityWatch implements Resumable<object, WatchCapacityResponse, Capacity> {
    readonly backoff: Backoff;

    constructor(backoff: Backoff) {
        this.backoff = backoff;
    }

    request(): object {
        return {};
    }

    receive(response: WatchCapacityResponse): Capacity[] {
        return response.capacity ? [response.capacity] : [];
    }

    failed(error: CallsdError): [number, []] {
        return [this.backoff.failed(error), []];
    }

    ended(): void {
        throw endedEarly();
    }
}

function parsePosition(text: string): Position {
    const [, databaseId, revision] = /^(.+)\/(\d+)$/.exec(text) ?? [];
    if (databaseId === undefined || revision === undefined) {
        throw new OutOfRangeError(
            `${JSON.stringify(text)} is no position of a watch: begin again without one`,
            { code: "OUT_OF_RANGE" },
        );
    }
    return { databaseId, revision: BigInt(revision) };
}
