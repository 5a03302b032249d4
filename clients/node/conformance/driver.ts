// SPDX-License-Identifier: Apache-2.0

/**
 * The driver of this library for the conformance tests of clients.
 *
 * Does what lines of JSON on standard input say, and says on standard output what came of it; the
 * protocol is described in clients/conformance/README.md.
 */

import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

import {
    CallsdError,
    Client,
    CreateJobRequestSchema,
    CreateJobResponseSchema,
    type Job,
    JobFilterSchema,
    JobSchema,
    type JobSpec,
    seconds,
} from "@callsd/client";
import { fromJson, type JsonObject, type JsonValue, toJson } from "@bufbuild/protobuf";

const STEP_SECONDS = 0.1;
const STEP_BYTES = 3200;

/** How long all sound of a command may take to be worked off. */
const CLOSE_SECONDS = 300;

/** One line of input; which fields it has depends on `do`. */
interface Command {
    readonly id: string | number;
    readonly do: string;
    readonly [field: string]: JsonValue;
}

/** How a command speaks while it is under way, and learns that it is to end. */
interface Context {
    readonly signal: AbortSignal;
    readonly tell: (event: JsonObject) => void;
}

let client: Client | undefined;
const running = new Map<Command["id"], AbortController>();

const COMMANDS: Record<string, (command: Command, context: Context) => Promise<JsonValue>> = {
    async connect({ address, tokenFile, caFile }) {
        client?.close();
        client = new Client({
            address: text(address) || undefined,
            tokenFile: text(tokenFile) || undefined,
            caFile: text(caFile) || undefined,
        });
        return {};
    },

    async createJob(command, { signal }) {
        const request = fromJson(CreateJobRequestSchema, command["request"]!);
        const { spec, labels, maxDuration } = request.job!;
        const options = {
            labels,
            maxDurationSeconds: maxDuration && seconds(maxDuration),
            requestId: request.requestId || undefined,
            validateOnly: request.validateOnly,
            noQueue: request.noQueue,
            ...limits(command, signal),
        };
        const answer = await connected().createJob(
            { [spec.case!]: spec.value } as unknown as JobSpec,
            options,
        );
        return toJson(CreateJobResponseSchema, answer);
    },

    async getJob(command, { signal }) {
        return asJson(await connected().getJob(text(command["name"]), limits(command, signal)));
    },

    async listJobs(command, { signal }) {
        const names = [];
        const options = { pageSize: Number(command["pageSize"] ?? 0), ...limits(command, signal) };
        for await (const { name } of connected().listJobs(filter(command), options)) {
            names.push(name);
        }
        return { names };
    },

    async stopJob(command, { signal }) {
        return asJson(await connected().stopJob(text(command["name"]), limits(command, signal)));
    },

    async deleteJob(command, { signal }) {
        await connected().deleteJob(text(command["name"]), limits(command, signal));
        return {};
    },

    async watchJobs(command, { signal, tell }) {
        const options = { resume: text(command["resume"]) || undefined, signal };
        for await (const event of connected().watchJobs(filter(command), options)) {
            switch (event.type) {
                case "changed":
                    tell({ job: asJson(event.job) });
                    break;
                case "deleted":
                    tell({ deleted: event.name });
                    break;
                case "bookmark":
                    tell({ bookmark: event.position });
                    break;
                case "interrupted":
                    tell({ interrupted: event.error.reason || event.error.code });
            }
            await sleep(Number(command["slowSeconds"] ?? 0) * 1000, undefined, { signal });
        }
        return {};
    },

    async upload(command, { signal }) {
        const { name } = await connected().uploadMedia(text(command["path"]), { signal });
        return { name };
    },

    async fetchArtifact(command, { signal }) {
        const [job, file, path] = [command["job"], command["artifact"], command["path"]].map(text);
        const artifact = await connected().fetchArtifact(job!, file!, path!, { signal });
        return { sha256: artifact.sha256, sizeBytes: Number(artifact.sizeBytes) };
    },

    async sendCaptions(command, { signal }) {
        const data = await readFile(text(command["path"]));
        const speaker = text(command["speaker"]);
        await using sender = await connected().streamCaptions(text(command["job"]), { signal });
        const began = performance.now();
        for (let step = 0; step * STEP_BYTES < data.length; step++) {
            if (command["realTime"]) {
                const due = began + step * STEP_SECONDS * 1000;
                await sleep(Math.max(0, due - performance.now()), undefined, { signal });
            }
            signal.throwIfAborted();
            const part = data.subarray(step * STEP_BYTES, (step + 1) * STEP_BYTES);
            await sender.send(speaker, part, step * STEP_SECONDS);
        }
        await sender.close({ timeoutSeconds: CLOSE_SECONDS, signal });
        return {};
    },

    async watchCaptions(command, { signal, tell }) {
        const options = { resumeSequence: 0, signal };
        for await (const { message } of connected().watchCaptions(text(command["job"]), options)) {
            if (message.case === "caption" && message.value.isFinal) {
                const { sequence, speaker, text } = message.value;
                tell({ final: { sequence: Number(sequence), speaker, text } });
            }
        }
        return {};
    },

    async isServing(command, { signal }) {
        return { serving: await connected().isServing(limits(command, signal)) };
    },

    async cancel(command) {
        running.get(command["target"] as Command["id"])?.abort();
        return {};
    },
};

const STREAMS: ReadonlySet<string> = new Set(["watchJobs", "watchCaptions", "sendCaptions"]);

function connected(): Client {
    if (!client) {
        throw new Error("connect first");
    }
    return client;
}

function text(value: JsonValue | undefined): string {
    return typeof value === "string" ? value : "";
}

function asJson(job: Job): JsonObject {
    return toJson(JobSchema, job) as JsonObject;
}

function filter(command: Command) {
    return fromJson(JobFilterSchema, command["filter"] || {});
}

function limits(command: Command, signal: AbortSignal) {
    const { timeoutSeconds } = command;
    return { signal, ...(typeof timeoutSeconds === "number" && { timeoutSeconds }) };
}

function say(id: Command["id"], answer: JsonObject): void {
    process.stdout.write(`${JSON.stringify({ id, ...answer })}\n`);
}

function errorFacts(error: unknown): JsonObject {
    if (!(error instanceof CallsdError)) {
        return { type: "CallsdError", code: "UNKNOWN", reason: "", message: String(error) };
    }
    const { name, code, reason, message, metadata, retryAfterSeconds, fieldViolations } = error;
    return {
        ...{ type: name, code, reason, message, metadata: { ...metadata } },
        ...(retryAfterSeconds !== undefined && { retryAfterSeconds }),
        fields: fieldViolations.map((violation) => violation.field),
    };
}

async function obey(command: Command): Promise<void> {
    const controller = new AbortController();
    running.set(command.id, controller);
    const tell = (event: JsonObject): void => say(command.id, { event });
    try {
        const action = COMMANDS[command.do];
        if (!action) {
            throw new Error(`no such command: ${command.do}`);
        }
        say(command.id, { result: await action(command, { signal: controller.signal, tell }) });
    } catch (error) {
        if (!controller.signal.aborted) {
            say(command.id, { error: errorFacts(error) });
        } else if (STREAMS.has(command.do)) {
            say(command.id, { result: {} });
        } else {
            const cancelled = {
                type: "CallsdError",
                code: "CANCELLED",
                reason: "",
                message: "cancelled",
            };
            say(command.id, { error: cancelled });
        }
    } finally {
        running.delete(command.id);
    }
}

for await (const line of createInterface({ input: process.stdin })) {
    void obey(JSON.parse(line) as Command);
}
client?.close();
process.exit(0);
