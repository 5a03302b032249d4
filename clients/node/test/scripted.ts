// SPDX-License-Identifier: Apache-2.0

/** A small real gRPC server that breaks where a test wants it to, which a daemon does not. */

import { createHash } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Http2Session } from "node:http2";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";

import type { Message, MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError, type HandlerContext } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";

import {
    CaptionService,
    Client,
    duration,
    type FetchArtifactRequest,
    JobService,
    MediaService,
    type ReadLogRequest,
    ServerService,
    type UploadMediaRequest,
    type UploadSchema,
} from "@callsd/client";
import {
    BadRequestSchema,
    ErrorInfoSchema,
    RetryInfoSchema,
} from "../src/gen/google/rpc/error_details_pb.js";
import { ScriptedCaptions } from "./scripted-captions.js";

/** A megabyte that is different at each offset modulo 256. */
export const CONTENT = Buffer.alloc(1 << 20, Buffer.from(Array.from({ length: 256 }, (_, n) => n)));

const CHUNK_BYTES = 100_000;

/** What a call is refused with. */
export interface Refusal {
    readonly code: Code;
    readonly reason?: string;
    readonly metadata?: Record<string, string>;
    readonly retryAfterSeconds?: number;
    readonly violations?: Record<string, string>;
    readonly domain?: string;
}

/** A refusal as the daemon makes it. */
export function refuse(refusal: Refusal): ConnectError {
    const {
        code,
        reason,
        metadata = {},
        retryAfterSeconds,
        violations,
        domain = "callsd",
    } = refusal;
    const details = [];
    if (reason) {
        details.push({ desc: ErrorInfoSchema, value: { reason, domain, metadata } });
    }
    if (violations) {
        const pairs = Object.entries(violations);
        const fieldViolations = pairs.map(([field, description]) => ({ field, description }));
        details.push({ desc: BadRequestSchema, value: { fieldViolations } });
    }
    if (retryAfterSeconds !== undefined) {
        details.push({ desc: RetryInfoSchema, value: { retryDelay: duration(retryAfterSeconds) } });
    }
    return new ConnectError(`refused: ${reason ?? ""}`, code, undefined, details as never);
}

export const CUT: Refusal = { code: Code.Unavailable };

/** The server with what it was asked, and what it shall do. */
export class Scripted {
    address = "";
    readonly requests: Message[] = [];
    readonly authorizations: (string | null)[] = [];
    /** What the next calls with one answer are refused with. */
    readonly refusals: Refusal[] = [];
    /** How many streams are cut after some bytes. */
    breaks = 0;
    sha256 = createHash("sha256").update(CONTENT).digest("hex");
    received = Buffer.alloc(0);
    /** How many uploads are refused because the server is still at the lost one. */
    busy = 0;
    readonly firstOffsets: bigint[] = [];
    /** Bytes of the log that were taken off the server's hands. */
    logBytes = 0;
    readonly captions = new ScriptedCaptions();
    readonly sessions = new Set<Http2Session>();
    #start: { uploadId: string; sizeBytes: bigint; sha256: string } | undefined;

    /** Serve on a socket of its own until the test ends; a client of it. */
    async serve(t: TestContext, options: { patienceSeconds?: number } = {}): Promise<Client> {
        const directory = await mkdtemp(join(tmpdir(), "callsd-"));
        const path = join(directory, "s");
        this.address = `unix:${path}`;
        const server = createServer(
            connectNodeAdapter({
                routes: (router) =>
                    router
                        .service(JobService, this.#jobs())
                        .service(MediaService, this.#media())
                        .service(CaptionService, this.captions.methods())
                        .service(ServerService, {
                            getServerInfo: (_, { signal }) => forever(signal),
                        }),
            }),
        );
        server.on("session", (session) => {
            this.sessions.add(session);
            session.on("close", () => this.sessions.delete(session));
        });
        server.listen(path);
        await once(server, "listening");
        const client = new Client({ address: this.address, ...options });
        t.after(async () => {
            client.close();
            this.hangUp();
            server.close();
            await rm(directory, { recursive: true });
        });
        return client;
    }

    /** End all connections without a word. */
    hangUp(): void {
        for (const session of this.sessions) {
            session.destroy();
        }
    }

    #note(request: Message, context: HandlerContext): void {
        this.requests.push(request);
        this.authorizations.push(context.requestHeader.get("authorization"));
        const refusal = this.refusals.shift();
        if (refusal) {
            throw refuse(refusal);
        }
    }

    #jobs() {
        const answer = (request: Message, context: HandlerContext) => {
            this.#note(request, context);
            return { job: { name: "jobs/a" } };
        };
        return {
            createJob: answer,
            getJob: answer,
            stopJob: answer,
            fetchArtifact: (request: FetchArtifactRequest) => this.#artifact(request),
            readLog: (request: ReadLogRequest) => this.#content(request),
        };
    }

    async *#artifact(request: FetchArtifactRequest) {
        const { name, offset } = request;
        const artifact = { name, sizeBytes: BigInt(CONTENT.length), sha256: this.sha256 };
        yield { artifact, offset };
        yield* this.#content(request);
    }

    async *#content(request: FetchArtifactRequest | ReadLogRequest) {
        this.requests.push(request);
        const { offset: first } = request;
        for (let offset = Number(first); offset < CONTENT.length; offset += CHUNK_BYTES) {
            const data = CONTENT.subarray(offset, offset + CHUNK_BYTES);
            yield { offset: BigInt(offset), data };
            this.logBytes += request.$typeName === "callsd.v1.ReadLogRequest" ? data.length : 0;
            if (offset > first) {
                this.#cut();
            }
        }
    }

    #cut(): void {
        if (this.breaks) {
            this.breaks -= 1;
            throw refuse(CUT);
        }
    }

    #media() {
        return {
            uploadMedia: (requests: AsyncIterable<UploadMediaRequest>) => this.#upload(requests),
            getUpload: () => {
                if (!this.#start) {
                    throw refuse({ code: Code.NotFound, reason: "UPLOAD_NOT_FOUND" });
                }
                return { upload: this.#uploaded() };
            },
        };
    }

    async #upload(requests: AsyncIterable<UploadMediaRequest>) {
        let count = 0;
        for await (const { message } of requests) {
            if (message.case === "start") {
                this.#start = message.value;
                if (this.busy) {
                    this.busy -= 1;
                    throw refuse({ code: Code.Aborted, reason: "UPLOAD_BUSY" });
                }
            } else if (message.case === "chunk") {
                count += 1;
                const { offset, data } = message.value;
                if (count === 1) {
                    this.firstOffsets.push(offset);
                }
                if (Number(offset) !== this.received.length) {
                    throw refuse({ code: Code.Internal, reason: "INTERNAL" });
                }
                this.received = Buffer.concat([this.received, data]);
                if (count === 2) {
                    this.#cut();
                }
            }
        }
        return { upload: this.#uploaded() };
    }

    #uploaded(): MessageInitShape<typeof UploadSchema> {
        const { uploadId, sizeBytes, sha256 } = this.#start!;
        return {
            name: `uploads/${uploadId}`,
            receivedBytes: BigInt(this.received.length),
            ...{ sizeBytes, sha256 },
            complete: createHash("sha256").update(this.received).digest("hex") === sha256,
        };
    }
}

/** Never answers. */
async function forever(signal: AbortSignal): Promise<never> {
    await once(signal, "abort");
    throw refuse(CUT);
}
