// SPDX-License-Identifier: Apache-2.0

import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";

import { Code } from "@connectrpc/connect";

import {
    AccessError,
    CallsdError,
    CapacityError,
    Client,
    ConflictError,
    type CreateJobRequest,
    DeadlineError,
    IntegrityError,
    InvalidRequestError,
    NotFoundError,
    OutOfRangeError,
    SettingsError,
    UnavailableError,
} from "@callsd/client";
import { CUT, Scripted } from "./scripted.js";

const SPEC = { transcription: { tracks: [{ speaker: "Ada" }] } };

async function refused(scripted: Scripted, client: Client): Promise<CallsdError> {
    const before = scripted.refusals.length;
    const error: unknown = await client.stopJob("a").catch((error: unknown) => error);
    assert.equal(scripted.refusals.length, before - 1);
    assert.ok(error instanceof CallsdError);
    return error;
}

describe("errors", () => {
    test("Each status has its class, and the reason is in the error.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t);
        const cases = [
            [Code.InvalidArgument, InvalidRequestError, "INVALID_ARGUMENT"],
            [Code.NotFound, NotFoundError, "NOT_FOUND"],
            [Code.Unauthenticated, AccessError, "UNAUTHENTICATED"],
            [Code.PermissionDenied, AccessError, "PERMISSION_DENIED"],
            [Code.ResourceExhausted, CapacityError, "RESOURCE_EXHAUSTED"],
            [Code.FailedPrecondition, ConflictError, "FAILED_PRECONDITION"],
            [Code.Aborted, ConflictError, "ABORTED"],
            [Code.AlreadyExists, ConflictError, "ALREADY_EXISTS"],
            [Code.OutOfRange, OutOfRangeError, "OUT_OF_RANGE"],
            [Code.Unavailable, UnavailableError, "UNAVAILABLE"],
            [Code.DataLoss, IntegrityError, "DATA_LOSS"],
            [Code.Internal, CallsdError, "INTERNAL"],
            [Code.Canceled, CallsdError, "CANCELLED"],
        ] as const;
        for (const [code, kind, name] of cases) {
            scripted.refusals.push({ code, reason: "A_REASON" });
            const error = await refused(scripted, client);

            assert.equal(error.constructor, kind);
            assert.equal(error.name, kind.name);
            assert.equal(error.code, name);
            assert.equal(error.reason, "A_REASON");
            assert.equal(error.message, "refused: A_REASON");
        }
    });

    test("A lack of capacity comes with figures and a time to come back.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t);
        const metadata = { required: "2", available: "0.5" };
        scripted.refusals.push({
            ...{ code: Code.ResourceExhausted, reason: "CPU_EXHAUSTED", metadata },
            retryAfterSeconds: 2.5,
        });
        const error = await refused(scripted, client);

        assert.ok(error instanceof CapacityError);
        assert.deepEqual([error.required, error.available], [2, 0.5]);
        assert.equal(error.retryAfterSeconds, 2.5);
        assert.deepEqual(error.metadata, metadata);
    });

    test("A caller can repair all fields at once.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t);
        const violations = { "job.labels": "too many", "job.spec": "missing" };
        scripted.refusals.push({ code: Code.InvalidArgument, reason: "FIELD_INVALID", violations });
        const error = await refused(scripted, client);

        assert.deepEqual(error.fieldViolations, [
            { field: "job.labels", description: "too many" },
            { field: "job.spec", description: "missing" },
        ]);
    });

    test("RESOURCE_EXHAUSTED of gRPC itself (a message too large) is no CapacityError.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t);
        scripted.refusals.push({ code: Code.ResourceExhausted });
        const error = await refused(scripted, client);

        assert.equal(error.constructor, CallsdError);
        assert.equal(error.code, "RESOURCE_EXHAUSTED");
    });

    test("A proxy's ErrorInfo is not mistaken for callsd's.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t);
        scripted.refusals.push({ code: Code.NotFound, reason: "ROUTE_NOT_FOUND", domain: "proxy" });

        assert.equal((await refused(scripted, client)).reason, "");
    });

    test("Where nobody listens is an UnavailableError that names the address.", async () => {
        using client = new Client({ address: "unix:/tmp/callsd-nobody.sock" });

        await assert.rejects(client.getJob("a"), {
            ...{ name: "UnavailableError", code: "UNAVAILABLE", reason: "" },
            message: /unix:\/tmp\/callsd-nobody\.sock.*ENOENT/,
        });
    });

    test("A call that gets no answer ends when its time is over, default included.", async (t) => {
        const scripted = new Scripted();
        await scripted.serve(t);
        using client = new Client({ address: scripted.address, timeoutSeconds: 0.2 });

        await assert.rejects(client.getServerInfo(), DeadlineError);
        await assert.rejects(client.getServerInfo({ timeoutSeconds: 0.0001 }), DeadlineError);
    });

    test("A connection that breaks during a call is UNAVAILABLE, whatever broke it.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t);
        const call = client.verifyModel("base"); // UNIMPLEMENTED here: the connection is there
        await assert.rejects(call, { code: "UNIMPLEMENTED" });
        const info = client.getServerInfo();
        const cutting = setInterval(() => scripted.hangUp(), 20);
        t.after(() => clearInterval(cutting));

        await assert.rejects(info, UnavailableError);
    });
});

describe("retries", () => {
    test("A lost answer cannot make two jobs: all tries have the same request id.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t);
        scripted.refusals.push(CUT, CUT, CUT);
        const { job } = await client.createJob(SPEC);
        const ids = scripted.requests.map((request) => (request as CreateJobRequest).requestId);

        assert.equal(job.name, "jobs/a");
        assert.equal(ids.length, 4);
        assert.equal(new Set(ids).size, 1);
        assert.match(ids[0]!, /^[0-9a-f]{8}-[0-9a-f]{4}-4/);
    });

    test("Each call of createJob has a request id of its own.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t);
        await client.createJob(SPEC);
        await client.createJob(SPEC);
        const ids = scripted.requests.map((request) => (request as CreateJobRequest).requestId);

        assert.equal(new Set(ids).size, 2);
    });

    test("Only reads and createJob are tried again, and four times at most.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t);
        scripted.refusals.push(CUT);
        await assert.rejects(client.stopJob("a"), UnavailableError);
        assert.equal(scripted.requests.length, 1);

        scripted.refusals.push(CUT, CUT, CUT, CUT);
        await assert.rejects(client.getJob("a"), UnavailableError);
        assert.equal(scripted.requests.length, 5);
    });

    test("A server that says when it is back is asked again then, not before.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t);
        scripted.refusals.push({ ...CUT, reason: "DRAINING", retryAfterSeconds: 0.4 });
        const began = performance.now();
        await client.getJob("a");

        assert.ok(performance.now() - began >= 400);
    });

    test("A retry that would come after the deadline is not waited for.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t);
        scripted.refusals.push({ ...CUT, reason: "DRAINING", retryAfterSeconds: 30 });

        await assert.rejects(client.getJob("a", { timeoutSeconds: 5 }), { reason: "DRAINING" });
    });
});

describe("tokens", () => {
    test("A client that runs on uses a token that was renewed meanwhile.", async (t) => {
        const scripted = new Scripted();
        await scripted.serve(t);
        const directory = await mkdtemp(join(tmpdir(), "callsd-"));
        t.after(() => rm(directory, { recursive: true }));
        const tokenFile = join(directory, "token");
        using client = new Client({ address: scripted.address, tokenFile });
        for (const token of ["first", "second"]) {
            await writeFile(tokenFile, `${token}\n`);
            await client.getJob("a");
        }

        assert.deepEqual(scripted.authorizations, ["Bearer first", "Bearer second"]);
    });

    test("A token file that is missing or holds no token is an error that names it.", async (t) => {
        const scripted = new Scripted();
        await scripted.serve(t);
        const directory = await mkdtemp(join(tmpdir(), "callsd-"));
        t.after(() => rm(directory, { recursive: true }));
        const tokenFile = join(directory, "token");
        using client = new Client({ address: scripted.address, tokenFile });

        await assert.rejects(client.getJob("a"), {
            name: "SettingsError",
            message: /token: ENOENT/,
        });
        for (const content of ["", "two words", "two\nlines", "ümlaut"]) {
            await writeFile(tokenFile, content);
            await assert.rejects(client.getJob("a"), SettingsError);
        }
        await assert.rejects(client.watchJobs().next(), SettingsError);
        assert.equal(scripted.requests.length, 0);
    });
});

describe("signals", () => {
    test("A signal ends a call with its own reason.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t);
        const controller = new AbortController();
        const call = client.getServerInfo({ signal: controller.signal });
        controller.abort(new Error("no longer needed"));

        await assert.rejects(call, { message: "no longer needed" });
        await assert.rejects(client.getJob("a", { signal: AbortSignal.abort() }), {
            name: "AbortError",
        });
    });

    test("Many calls may share a signal, which keeps no trace of them.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t);
        const warnings: Error[] = [];
        const note = (warning: Error) => warnings.push(warning);
        process.on("warning", note);
        t.after(() => process.off("warning", note));
        const { signal } = new AbortController();
        await Promise.all(Array.from({ length: 30 }, () => client.getJob("a", { signal })));
        await new Promise((resolve) => setImmediate(resolve)); // warnings come later

        assert.equal(scripted.requests.length, 30);
        assert.deepEqual(warnings, []);
    });

    test("A closed client says so, to calls under way and to later ones.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t);
        const call = client.getServerInfo();
        client.close();

        await assert.rejects(call, { name: "ConflictError", message: "the client is closed" });
        await assert.rejects(client.getJob("a"), ConflictError);
        await assert.rejects(client.watchJobs().next(), ConflictError);
    });
});
