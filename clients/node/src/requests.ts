// SPDX-License-Identifier: Apache-2.0

/** Requests as the client builds them. */

import { randomUUID } from "node:crypto";

import type { MessageInitShape } from "@bufbuild/protobuf";

import type { CaptionsSpecSchema } from "./gen/callsd/v1/caption_pb.js";
import type { CaptureSpecSchema } from "./gen/callsd/v1/capture_pb.js";
import type {
    CreateJobRequestSchema,
    CreateJobResponse,
    Job,
    JobFilterSchema,
} from "./gen/callsd/v1/job_pb.js";
import type { RecordingSpecSchema } from "./gen/callsd/v1/recording_pb.js";
import type { TranscriptionSpecSchema } from "./gen/callsd/v1/transcription_pb.js";
import { duration } from "./time.js";

/** What any request takes. */
export interface CallOptions {
    /** Ends the request; it throws the signal's reason. */
    readonly signal?: AbortSignal | undefined;
    /** Deadline of the request. Unit: seconds. */
    readonly timeoutSeconds?: number | undefined;
}

/** What a job can be made of. */
export type JobSpec =
    | { readonly transcription: MessageInitShape<typeof TranscriptionSpecSchema> }
    | { readonly captions: MessageInitShape<typeof CaptionsSpecSchema> }
    | { readonly recording: MessageInitShape<typeof RecordingSpecSchema> }
    | { readonly capture: MessageInitShape<typeof CaptureSpecSchema> };

/** A job, its name or its bare identifier. */
export type JobRef = string | Pick<Job, "name">;

/** Which jobs: those that match all that is set; `names` may be bare identifiers. */
export type JobFilter = MessageInitShape<typeof JobFilterSchema>;

/** What `createJob` takes beside the spec. */
export interface CreateJobOptions extends CallOptions {
    /** Marks of your own. */
    readonly labels?: Readonly<Record<string, string>> | undefined;
    /** Longest time to run. Unit: seconds. Default: the server's. */
    readonly maxDurationSeconds?: number | undefined;
    /**
     * A UUID. Give the same one to ask for the same job again after a failure whose outcome you do
     * not know. Default: a new one, which covers retries inside this method.
     */
    readonly requestId?: string | undefined;
    /** Check the request and admission, create nothing. */
    readonly validateOnly?: boolean | undefined;
    /** Refuse with `CapacityError` instead of waiting for capacity. */
    readonly noQueue?: boolean | undefined;
}

/** What `createJob` answers: the job, and what admission said to it. */
export type CreatedJob = CreateJobResponse & { job: Job };

/** A job's full name. */
export function jobName(job: JobRef): string {
    const name = typeof job === "string" ? job : job.name;
    return name.includes("/") ? name : `jobs/${name}`;
}

/** A request that may safely be sent twice: it always carries a request id. */
export function createJobRequest(
    spec: JobSpec,
    options: CreateJobOptions,
): MessageInitShape<typeof CreateJobRequestSchema> {
    const { labels, maxDurationSeconds, requestId, validateOnly, noQueue } = options;
    return {
        job: {
            spec: specCase(spec),
            labels: { ...labels },
            ...(maxDurationSeconds !== undefined && { maxDuration: duration(maxDurationSeconds) }),
        },
        requestId: requestId ?? randomUUID(),
        validateOnly: validateOnly ?? false,
        noQueue: noQueue ?? false,
    };
}

/** A filter with full names. */
export function fullFilter(filter: JobFilter | undefined): JobFilter {
    return { ...filter, names: (filter?.names ?? []).map(jobName) };
}

function specCase(spec: JobSpec) {
    if ("transcription" in spec) {
        return { case: "transcription" as const, value: spec.transcription };
    }
    if ("captions" in spec) {
        return { case: "captions" as const, value: spec.captions };
    }
    if ("recording" in spec) {
        return { case: "recording" as const, value: spec.recording };
    }
    return { case: "capture" as const, value: spec.capture };
}
