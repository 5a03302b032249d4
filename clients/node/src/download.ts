// SPDX-License-Identifier: Apache-2.0

/** Logs and artifacts: bytes that go on where a broken connection stopped them. */

import { createHash, randomUUID } from "node:crypto";
import { type FileHandle, open, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";

import { type CallsdError, IntegrityError } from "./errors.js";
import type { Artifact, FetchArtifactResponse, ReadLogResponse } from "./gen/callsd/v1/job_pb.js";
import { type Backoff, endedEarly, type Resumable } from "./resume.js";
import type { OnProgress } from "./upload.js";

interface LogRequest {
    readonly name: string;
    readonly offset: bigint;
    readonly follow: boolean;
}

/** A job's log from an offset on. */
export class LogReading implements Resumable<LogRequest, ReadLogResponse, Uint8Array> {
    readonly backoff: Backoff;
    #next: LogRequest;

    constructor(request: LogRequest, backoff: Backoff) {
        this.backoff = backoff;
        this.#next = request;
    }

    request(): LogRequest {
        return this.#next;
    }

    receive({ offset, data }: ReadLogResponse): Uint8Array[] {
        // Followed as the server has it: a log that was cut short begins again at zero.
        this.#next = { ...this.#next, offset: offset + BigInt(data.length) };
        return data.length ? [data] : [];
    }

    failed(error: CallsdError): [number, []] {
        return [this.backoff.failed(error), []];
    }

    ended(): void {
        // A log that ends has been read.
    }
}

interface FetchRequest {
    readonly name: string;
    readonly offset: bigint;
}

/**
 * One artifact on its way into a file, which appears whole and verified or not at all.
 *
 * Each piece it yields is given to `write` before the next one is asked for. `discard` removes
 * what was not finished.
 */
export class Download implements Resumable<FetchRequest, FetchArtifactResponse, Uint8Array> {
    readonly backoff: Backoff;
    readonly #name: string;
    readonly #destination: string;
    readonly #part: string;
    readonly #file: FileHandle;
    readonly #onProgress: OnProgress | undefined;
    readonly #hash = createHash("sha256");
    #offset = 0;
    #artifact: Artifact | undefined;

    private constructor(
        name: string,
        options: { destination: string; onProgress?: OnProgress | undefined; backoff: Backoff },
        part: string,
        file: FileHandle,
    ) {
        this.backoff = options.backoff;
        this.#name = name;
        this.#destination = options.destination;
        this.#onProgress = options.onProgress;
        this.#part = part;
        this.#file = file;
    }

    /** Begin a file beside the destination, because a rename does not cross file systems. */
    static async begin(
        name: string,
        options: { destination: string; onProgress?: OnProgress | undefined; backoff: Backoff },
    ): Promise<Download> {
        const { destination } = options;
        const part = join(dirname(destination), `.${basename(destination)}.${randomUUID()}.part`);
        return new Download(name, options, part, await open(part, "wx"));
    }

    request(): FetchRequest {
        return { name: this.#name, offset: BigInt(this.#offset) };
    }

    receive({ artifact, offset, data }: FetchArtifactResponse): Uint8Array[] {
        this.#artifact ??= artifact;
        if (Number(offset) !== this.#offset) {
            throw this.#mismatch(`the server sent byte ${offset} where ${this.#offset} was due`);
        }
        return data.length ? [data] : [];
    }

    async write(data: Uint8Array): Promise<void> {
        await this.#file.writeFile(data);
        this.#hash.update(data);
        this.#offset += data.length;
        if (this.#artifact) {
            this.#onProgress?.(this.#offset, Number(this.#artifact.sizeBytes));
        }
    }

    failed(error: CallsdError): [number, []] {
        return [this.backoff.failed(error), []];
    }

    /** Complete when all announced bytes are there; otherwise the stream goes on. */
    ended(): void {
        if (!this.#artifact || this.#offset < this.#artifact.sizeBytes) {
            throw endedEarly();
        }
    }

    /**
     * Verify what has arrived and put it in its place.
     *
     * @throws {IntegrityError} Length or SHA-256 differ from what was announced.
     */
    async finish(): Promise<Artifact> {
        const artifact = this.#artifact;
        const isRight =
            artifact?.sizeBytes === BigInt(this.#offset) &&
            artifact.sha256 === this.#hash.digest("hex");
        if (!artifact || !isRight) {
            throw this.#mismatch("the bytes received do not have the announced hash");
        }
        await this.#file.sync();
        await rename(this.#part, this.#destination);
        return artifact;
    }

    /** Let go of the file, and remove it if it was not finished. */
    async discard(): Promise<void> {
        await this.#file.close();
        await rm(this.#part, { force: true });
    }

    #mismatch(message: string): IntegrityError {
        return new IntegrityError(`${this.#name}: ${message}`, { code: "DATA_LOSS" });
    }
}
