// SPDX-License-Identifier: Apache-2.0

/** Uploads: files that go on where a broken connection stopped them. */

import { createHash, randomUUID } from "node:crypto";
import { open } from "node:fs/promises";

import type { MessageInitShape } from "@bufbuild/protobuf";

import { type CallsdError, IntegrityError, InvalidRequestError } from "./errors.js";
import type { Upload, UploadMediaRequestSchema } from "./gen/callsd/v1/media_pb.js";
import type { Backoff } from "./resume.js";

/** Bytes in one message of an upload: the most that the API allows. */
const CHUNK_BYTES = 256 << 10;

/** Called with bytes done and bytes in all. */
export type OnProgress = (doneBytes: number, totalBytes: number) => void;

/** A file to be uploaded, as it was when it was hashed. */
interface LocalFile {
    readonly path: string;
    readonly sizeBytes: number;
    readonly sha256: string;
}

/**
 * Hash a file. Reads all of it.
 *
 * @throws {InvalidRequestError} It is empty.
 */
export async function readLocalFile(
    path: string,
    signal: AbortSignal | undefined,
): Promise<LocalFile> {
    const hash = createHash("sha256");
    let sizeBytes = 0;
    for await (const data of chunks(path, 0)) {
        signal?.throwIfAborted();
        hash.update(data);
        sizeBytes += data.length;
    }
    if (!sizeBytes) {
        throw new InvalidRequestError(`${path} is empty: there is no sound in it to send`, {
            code: "INVALID_ARGUMENT",
            reason: "INPUT_INVALID",
        });
    }
    return { path, sizeBytes, sha256: hash.digest("hex") };
}

/** One file on its way to the server, over as many requests as it takes. */
export class Uploading {
    readonly backoff: Backoff;
    readonly #file: LocalFile;
    readonly #id: string;
    readonly #onProgress: OnProgress | undefined;
    #offset = 0;

    constructor(
        file: LocalFile,
        options: { id?: string | undefined; onProgress?: OnProgress | undefined; backoff: Backoff },
    ) {
        this.backoff = options.backoff;
        this.#file = file;
        this.#id = options.id ?? randomUUID();
        this.#onProgress = options.onProgress;
    }

    /** Name of the upload, for GetUpload. */
    get name(): string {
        return `uploads/${this.#id}`;
    }

    /** What to send now: the start, then the bytes from the current offset on. */
    async *messages(): AsyncGenerator<MessageInitShape<typeof UploadMediaRequestSchema>> {
        const { path, sizeBytes, sha256 } = this.#file;
        yield {
            message: {
                case: "start",
                value: { uploadId: this.#id, sizeBytes: BigInt(sizeBytes), sha256 },
            },
        };
        // A position of its own: what was sent on a connection that broke may still be under way.
        let offset = this.#offset;
        for await (const data of chunks(path, offset)) {
            yield { message: { case: "chunk", value: { offset: BigInt(offset), data } } };
            offset += data.length;
            this.#onProgress?.(Math.min(offset, sizeBytes), sizeBytes);
        }
    }

    /**
     * Go on from what the server has; returns the upload if that is all.
     *
     * The server is asked before each try: also before the first, as an id given by the caller may
     * be that of an upload begun earlier.
     *
     * @throws {IntegrityError} The upload of this id is of another file.
     */
    found(upload: Upload | undefined): Upload | undefined {
        const { path, sizeBytes, sha256 } = this.#file;
        this.#offset = Number(upload?.receivedBytes ?? 0);
        if (upload && (Number(upload.sizeBytes) !== sizeBytes || upload.sha256 !== sha256)) {
            throw new IntegrityError(`${this.name} is an upload of another file than ${path}`, {
                code: "DATA_LOSS",
            });
        }
        this.backoff.answered();
        return upload?.complete ? upload : undefined;
    }

    /**
     * Seconds to wait before the next try.
     *
     * @throws `error` itself, when the upload cannot go on.
     */
    failed(error: CallsdError): number {
        // For a while after a cut the server may still hold the lost stream: it refuses this one, or
        // has stored more since it was asked how much has arrived.
        const isPassing = error.reason === "UPLOAD_BUSY" || "received_bytes" in error.metadata;
        return this.backoff.failed(error, { isPassing });
    }
}

async function* chunks(path: string, start: number): AsyncGenerator<Uint8Array> {
    await using file = await open(path);
    for (let offset = start; ;) {
        // A buffer for each: what was yielded may still be on its way.
        const { buffer, bytesRead } = await file.read(
            Buffer.alloc(CHUNK_BYTES),
            0,
            CHUNK_BYTES,
            offset,
        );
        if (!bytesRead) {
            return;
        }
        yield buffer.subarray(0, bytesRead);
        offset += bytesRead;
    }
}
