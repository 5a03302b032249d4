// SPDX-License-Identifier: Apache-2.0

/**
 * Typed errors, made from a gRPC status and its details.
 *
 * callsd answers each refusal with a `google.rpc.ErrorInfo` whose reason is a name of
 * `callsd.v1.ErrorReason` without its prefix. The error's class follows the status code, so that a
 * reason newer than this client is still caught by the right `instanceof`.
 */

import { Code, ConnectError } from "@connectrpc/connect";

import {
    BadRequestSchema,
    ErrorInfoSchema,
    RetryInfoSchema,
} from "./gen/google/rpc/error_details_pb.js";
import { seconds } from "./time.js";

const DOMAIN = "callsd";

/** Name of a gRPC status code. */
export type StatusCode =
    | "CANCELLED"
    | "UNKNOWN"
    | "INVALID_ARGUMENT"
    | "DEADLINE_EXCEEDED"
    | "NOT_FOUND"
    | "ALREADY_EXISTS"
    | "PERMISSION_DENIED"
    | "RESOURCE_EXHAUSTED"
    | "FAILED_PRECONDITION"
    | "ABORTED"
    | "OUT_OF_RANGE"
    | "UNIMPLEMENTED"
    | "INTERNAL"
    | "UNAVAILABLE"
    | "DATA_LOSS"
    | "UNAUTHENTICATED";

/** One invalid field of a request. */
export interface FieldViolation {
    /** Path of the field, such as `job.transcription.tracks[0].speaker`. */
    readonly field: string;
    /** What is wrong with it, for a person. */
    readonly description: string;
}

/** What an error carries beside its message. */
export interface ErrorFacts {
    readonly code: StatusCode;
    readonly reason?: string;
    readonly metadata?: Readonly<Record<string, string>>;
    readonly retryAfterSeconds?: number | undefined;
    readonly fieldViolations?: readonly FieldViolation[];
    readonly cause?: unknown;
}

/** The client's own settings are wrong: an address, a token file, a certificate file. */
export class SettingsError extends Error {
    override readonly name = "SettingsError";
}

/** A request that did not succeed; the base of all errors of the API. */
export class CallsdError extends Error {
    override readonly name: string = "CallsdError";
    /** gRPC status code. */
    readonly code: StatusCode;
    /**
     * Name from `callsd.v1.ErrorReason` without its prefix; empty when the error comes from the
     * connection, not from callsd.
     */
    readonly reason: string;
    /** The facts in the message, for a program. */
    readonly metadata: Readonly<Record<string, string>>;
    /** When it makes sense to try again, if the server said so. Unit: seconds. */
    readonly retryAfterSeconds: number | undefined;
    /** All invalid fields of the request. */
    readonly fieldViolations: readonly FieldViolation[];

    constructor(message: string, facts: ErrorFacts) {
        super(message, facts.cause === undefined ? undefined : { cause: facts.cause });
        this.code = facts.code;
        this.reason = facts.reason ?? "";
        this.metadata = facts.metadata ?? {};
        this.retryAfterSeconds = facts.retryAfterSeconds;
        this.fieldViolations = facts.fieldViolations ?? [];
    }
}

/** The request is wrong in itself; `fieldViolations` lists what. */
export class InvalidRequestError extends CallsdError {
    override readonly name = "InvalidRequestError";
}

/** There is no such job, artifact, upload, model or file. */
export class NotFoundError extends CallsdError {
    override readonly name = "NotFoundError";
}

/** The token is missing, unknown or expired, or its scopes do not cover this. */
export class AccessError extends CallsdError {
    override readonly name = "AccessError";
}

/** The machine, or a limit set on it, has no room for this now. */
export class CapacityError extends CallsdError {
    override readonly name = "CapacityError";

    /** How much it takes; the unit is that of the reason's resource: cores or bytes. */
    get required(): number | undefined {
        return number(this.metadata["required"]);
    }

    /** How much there is, in the unit of `required`. */
    get available(): number | undefined {
        return number(this.metadata["available"]);
    }
}

/** Things are not in the state that this needs: a job, an etag, a model, an upload. */
export class ConflictError extends CallsdError {
    override readonly name = "ConflictError";
}

/** A revision or an offset lies outside what the server has. */
export class OutOfRangeError extends CallsdError {
    override readonly name = "OutOfRangeError";
}

/** The server cannot be reached, or is shutting down. */
export class UnavailableError extends CallsdError {
    override readonly name = "UnavailableError";
}

/** The time given to the request has passed; what it asked for may still happen. */
export class DeadlineError extends CallsdError {
    override readonly name = "DeadlineError";
}

/** Bytes are not what they were: those that arrived, or those of the server's database. */
export class IntegrityError extends CallsdError {
    override readonly name = "IntegrityError";
}

type ErrorClass = new (message: string, facts: ErrorFacts) => CallsdError;

const CODES: Readonly<Record<Code, readonly [StatusCode, ErrorClass]>> = {
    [Code.Canceled]: ["CANCELLED", CallsdError],
    [Code.Unknown]: ["UNKNOWN", CallsdError],
    [Code.InvalidArgument]: ["INVALID_ARGUMENT", InvalidRequestError],
    [Code.DeadlineExceeded]: ["DEADLINE_EXCEEDED", DeadlineError],
    [Code.NotFound]: ["NOT_FOUND", NotFoundError],
    [Code.AlreadyExists]: ["ALREADY_EXISTS", ConflictError],
    [Code.PermissionDenied]: ["PERMISSION_DENIED", AccessError],
    [Code.ResourceExhausted]: ["RESOURCE_EXHAUSTED", CapacityError],
    [Code.FailedPrecondition]: ["FAILED_PRECONDITION", ConflictError],
    [Code.Aborted]: ["ABORTED", ConflictError],
    [Code.OutOfRange]: ["OUT_OF_RANGE", OutOfRangeError],
    [Code.Unimplemented]: ["UNIMPLEMENTED", CallsdError],
    [Code.Internal]: ["INTERNAL", CallsdError],
    [Code.Unavailable]: ["UNAVAILABLE", UnavailableError],
    [Code.DataLoss]: ["DATA_LOSS", IntegrityError],
    [Code.Unauthenticated]: ["UNAUTHENTICATED", AccessError],
};

/** Codes that the transport gives to a connection that broke, in the place of a status. */
const BROKEN = new Set([
    Code.Aborted,
    Code.Canceled,
    Code.Internal,
    Code.Unavailable,
    Code.Unknown,
]);

/**
 * What a request threw, as one of ours; what does not come from it is returned as it is.
 *
 * @param address - Where the request went, for the message.
 */
export function typedError(error: unknown, address: string): Error {
    if (!(error instanceof ConnectError)) {
        return error instanceof Error ? error : new Error(String(error));
    }
    if (error.cause instanceof SettingsError) {
        return error.cause;
    }
    if (!error.metadata.has("grpc-status")) {
        return transportError(error, address);
    }
    const [code, kind] = CODES[error.code];
    const info = error.findDetails(ErrorInfoSchema).find((one) => one.domain === DOMAIN);
    const delay = error.findDetails(RetryInfoSchema)[0]?.retryDelay;
    // gRPC itself answers RESOURCE_EXHAUSTED when a message is too large: no capacity is short.
    const Kind = kind === CapacityError && info === undefined ? CallsdError : kind;
    return new Kind(error.rawMessage || code.toLowerCase().replaceAll("_", " "), {
        code,
        reason: info?.reason ?? "",
        metadata: info?.metadata ?? {},
        retryAfterSeconds: delay && seconds(delay),
        fieldViolations: error
            .findDetails(BadRequestSchema)
            .flatMap((bad) => bad.fieldViolations)
            .map(({ field, description }) => ({ field, description })),
    });
}

/** No status came from the server: the error is the transport's own. */
function transportError(error: ConnectError, address: string): CallsdError {
    const [code, kind] = CODES[error.code];
    if (error.code === Code.DeadlineExceeded) {
        return new DeadlineError(`${address}: no answer in the time given`, { code });
    }
    if (BROKEN.has(error.code) || error.rawMessage.startsWith("http/2")) {
        return new UnavailableError(
            `${address}: callsd cannot be reached, or the connection broke (${error.rawMessage})`,
            { code: "UNAVAILABLE", cause: error },
        );
    }
    const Kind = kind === CapacityError ? CallsdError : kind;
    return new Kind(`${address}: ${error.rawMessage}`, { code, cause: error });
}

/** A number from metadata; undefined when absent or not one. */
function number(text: string | undefined): number | undefined {
    const found = text ? Number(text) : Number.NaN;
    return Number.isNaN(found) ? undefined : found;
}
