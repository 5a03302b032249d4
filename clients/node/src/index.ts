// SPDX-License-Identifier: Apache-2.0

/**
 * Client of callsd: recordings, transcripts and live captions for calls.
 *
 * `Client` has the methods; the messages of the API are those of `proto/callsd/v1`.
 */

export { CaptionSender } from "./caption-sender.js";
export { Client, type ClientOptions } from "./client.js";
export { Endpoint, type EndpointOptions } from "./endpoint.js";
export {
    AccessError,
    CallsdError,
    CapacityError,
    ConflictError,
    DeadlineError,
    type FieldViolation,
    IntegrityError,
    InvalidRequestError,
    NotFoundError,
    OutOfRangeError,
    SettingsError,
    type StatusCode,
    UnavailableError,
} from "./errors.js";
export type {
    CallOptions,
    CreatedJob,
    CreateJobOptions,
    JobFilter,
    JobRef,
    JobSpec,
} from "./requests.js";
export type { Sound } from "./sound.js";
export { duration, seconds } from "./time.js";
export type { OnProgress } from "./upload.js";
export {
    type Bookmark,
    FINAL_STATES,
    type Interrupted,
    type JobChanged,
    type JobDeleted,
    type WatchEvent,
} from "./watch.js";

export * from "./gen/callsd/v1/capacity_pb.js";
export * from "./gen/callsd/v1/caption_pb.js";
export * from "./gen/callsd/v1/capture_pb.js";
export * from "./gen/callsd/v1/error_pb.js";
export * from "./gen/callsd/v1/job_pb.js";
export * from "./gen/callsd/v1/kind_pb.js";
export * from "./gen/callsd/v1/media_pb.js";
export * from "./gen/callsd/v1/model_pb.js";
export * from "./gen/callsd/v1/recording_pb.js";
export * from "./gen/callsd/v1/server_pb.js";
export * from "./gen/callsd/v1/transcription_pb.js";
