// SPDX-License-Identifier: Apache-2.0

/** Durations of the API as numbers of seconds, and waiting. */

import { setTimeout as delay } from "node:timers/promises";

import type { Duration } from "@bufbuild/protobuf/wkt";
import { durationFromMs, durationMs } from "@bufbuild/protobuf/wkt";

/** A duration of the API; whole milliseconds. */
export function duration(seconds: number): Duration {
    return durationFromMs(Math.round(seconds * 1000));
}

/** A duration of the API as a number; 0 when it is unset. */
export function seconds(duration: Duration | undefined): number {
    return duration === undefined ? 0 : durationMs(duration) / 1000;
}

/** The monotonic clock. Unit: seconds. */
export function now(): number {
    return performance.now() / 1000;
}

/** Wait; throws the signal's reason when that comes first. */
export async function sleep(seconds: number, signal: AbortSignal | undefined): Promise<void> {
    try {
        await delay(seconds * 1000, undefined, signal && { signal });
    } catch (error) {
        signal?.throwIfAborted();
        throw error;
    }
}
