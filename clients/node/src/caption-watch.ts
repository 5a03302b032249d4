// SPDX-License-Identifier: Apache-2.0

/** Following a call's captions: each final one once, over any number of connections. */

import type { MessageInitShape } from "@bufbuild/protobuf";

import { type CallsdError, IntegrityError } from "./errors.js";
import type {
    WatchCaptionsRequestSchema,
    WatchCaptionsResponse,
} from "./gen/callsd/v1/caption_pb.js";
import type { Backoff, Resumable } from "./resume.js";

type WatchCaptionsRequest = MessageInitShape<typeof WatchCaptionsRequestSchema>;

/** One call's captions over any number of connections: each final caption once, in order. */
export class CaptionWatch implements Resumable<
    WatchCaptionsRequest,
    WatchCaptionsResponse,
    WatchCaptionsResponse
> {
    readonly backoff: Backoff;
    readonly #job: string;
    readonly #finalsOnly: boolean;
    #last: bigint | undefined;
    #hasBegun = false;

    constructor(
        job: string,
        options: { resumeSequence: bigint | undefined; finalsOnly: boolean; backoff: Backoff },
    ) {
        this.backoff = options.backoff;
        this.#job = job;
        this.#last = options.resumeSequence;
        this.#finalsOnly = options.finalsOnly;
    }

    /** After the last final caption seen; after a beginning without one, all are news. */
    request(): WatchCaptionsRequest {
        const after = this.#last ?? (this.#hasBegun ? 0n : undefined);
        return {
            job: this.#job,
            finalsOnly: this.#finalsOnly,
            ...(after !== undefined && { resumeSequence: after }),
        };
    }

    /** The message, unless it is a final caption that was seen before. */
    receive(response: WatchCaptionsResponse): WatchCaptionsResponse[] {
        this.#hasBegun = true;
        const { message } = response;
        if (message.case === "caption" && message.value.isFinal) {
            const { sequence } = message.value;
            const due = this.#last === undefined ? sequence : this.#last + 1n;
            if (sequence < due) {
                return [];
            }
            if (sequence > due) {
                throw new IntegrityError(
                    `${this.#job}: the server sent caption ${sequence} where ${due} was due`,
                    { code: "DATA_LOSS" },
                );
            }
            this.#last = sequence;
        }
        return [response];
    }

    failed(error: CallsdError): [number, []] {
        return [this.backoff.failed(error, { isPassing: isEarly(error) }), []];
    }

    ended(): void {
        // The call is over.
    }
}

/** Whether a job is not open yet after a restart; one that is over gives no time to wait. */
export function isEarly(error: CallsdError): boolean {
    return error.reason === "JOB_STATE_CONFLICT" && error.retryAfterSeconds !== undefined;
}
