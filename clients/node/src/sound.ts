// SPDX-License-Identifier: Apache-2.0

/** Sound on its way into chunks: whole samples, on the grid that the server counts by. */

import { InvalidRequestError } from "./errors.js";
import { AudioEncoding } from "./gen/callsd/v1/caption_pb.js";

/** Positions are samples at this rate, however the sound is coded. */
export const SAMPLE_RATE_HZ = 16_000;

/** The most that the API takes in one chunk. */
const MAX_CHUNK_BYTES = 32 << 10;

const SAMPLE_BYTES = 2;

/** Some sound of one speaker. */
export interface Sound {
    readonly speaker: string;
    /** s16le: whole samples, of any length; Opus: one packet. Copied. */
    readonly data: Uint8Array;
    /** When it was made, from the start of the call. */
    readonly startOffsetSeconds: number;
}

/** Sound of at most one chunk's size, and the samples that it lasts. */
export interface Piece {
    readonly speaker: string;
    readonly data: Uint8Array;
    readonly startSample: number;
    readonly samples: number;
}

/**
 * Cut sound to the size of chunks.
 *
 * @throws {InvalidRequestError} It is not what its encoding says.
 */
export function* pieces(sound: Sound, encoding: AudioEncoding): Generator<Piece> {
    const { speaker, data } = sound;
    const startSample = Math.round(sound.startOffsetSeconds * SAMPLE_RATE_HZ);
    if (encoding === AudioEncoding.OPUS) {
        yield { speaker, data: new Uint8Array(data), startSample, samples: opusSamples(data) };
        return;
    }
    if (data.length % SAMPLE_BYTES) {
        throw invalid(`${data.length} bytes of s16le end within a sample`);
    }
    for (let offset = 0; offset < data.length; offset += MAX_CHUNK_BYTES) {
        const part = new Uint8Array(data.subarray(offset, offset + MAX_CHUNK_BYTES));
        yield {
            speaker,
            data: part,
            startSample: startSample + offset / SAMPLE_BYTES,
            samples: part.length / SAMPLE_BYTES,
        };
    }
}

/** How long an Opus packet lasts. Source: RFC 6716, section 3.1. */
function opusSamples(packet: Uint8Array): number {
    const [head, count] = packet;
    if (head === undefined || ((head & 3) === 3 && count === undefined)) {
        throw invalid("an empty or cut Opus packet");
    }
    const mode = head >> 3;
    const code = head & 3;
    const milliseconds =
        mode < 12
            ? [10, 20, 40, 60][mode & 3]! // SILK
            : mode < 16
              ? [10, 20][mode & 1]! // hybrid
              : [2.5, 5, 10, 20][mode & 3]!;
    const frames = code < 3 ? [1, 2, 2][code]! : count! & 0x3f;
    if (!frames) {
        throw invalid("an Opus packet without a frame");
    }
    return Math.round((frames * milliseconds * SAMPLE_RATE_HZ) / 1000);
}

function invalid(message: string): InvalidRequestError {
    return new InvalidRequestError(message, { code: "INVALID_ARGUMENT", reason: "FIELD_INVALID" });
}
