// SPDX-License-Identifier: Apache-2.0

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test, type TestContext } from "node:test";

import { IntegrityError, InvalidRequestError } from "@callsd/client";
import { CONTENT, Scripted } from "./scripted.js";

async function directory(t: TestContext): Promise<string> {
    const path = await mkdtemp(join(tmpdir(), "callsd-"));
    t.after(() => rm(path, { recursive: true }));
    return path;
}

function offsets(scripted: Scripted): number[] {
    return scripted.requests.map((request) => Number((request as { offset?: bigint }).offset));
}

describe("artifacts", () => {
    test("Over cuts each byte is there once, and none that has arrived is asked for again.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t);
        const destination = join(await directory(t), "a.mp4");
        const progress: number[] = [];
        scripted.breaks = 2;
        const artifact = await client.fetchArtifact("a", "a.mp4", destination, {
            onProgress: (done, all) => progress.push(done / all),
        });

        assert.deepEqual(await readFile(destination), CONTENT);
        assert.equal(artifact.sizeBytes, BigInt(CONTENT.length));
        assert.deepEqual(offsets(scripted), [0, 200_000, 400_000]);
        assert.deepEqual(progress, [...progress].sort());
        assert.equal(progress.at(-1), 1);
        assert.equal((await stat(destination)).mode & 0o777, 0o666 & ~process.umask());
    });

    test("What lacks the announced hash never gets the name; the old file stays.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t);
        const folder = await directory(t);
        await writeFile(join(folder, "a.mp4"), "old");
        scripted.sha256 = "0".repeat(64);

        await assert.rejects(
            client.fetchArtifact("a", "a.mp4", join(folder, "a.mp4")),
            IntegrityError,
        );
        assert.equal(await readFile(join(folder, "a.mp4"), "utf8"), "old");
        assert.deepEqual(await readdir(folder), ["a.mp4"]);
    });

    test("A fetch that is given up leaves nothing behind.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t);
        const folder = await directory(t);
        const controller = new AbortController();
        const fetching = client.fetchArtifact("a", "a.mp4", join(folder, "a.mp4"), {
            onProgress: () => controller.abort(),
            signal: controller.signal,
        });

        await assert.rejects(fetching, { name: "AbortError" });
        assert.deepEqual(await readdir(folder), []);
    });
});

describe("logs", () => {
    test("A log is read once from end to end, over cuts.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t);
        scripted.breaks = 2;
        const pieces = [];
        for await (const piece of client.readLog("a")) {
            pieces.push(piece);
        }

        assert.deepEqual(Buffer.concat(pieces), CONTENT);
        assert.deepEqual(offsets(scripted), [0, 200_000, 400_000]);
    });
});

describe("slow readers", () => {
    test("A reader that stops holds up the server, and no other call of its connection.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t);
        const destination = join(await directory(t), "a.mp4");
        const log = client.readLog("a");
        await log.next();
        for (let count = 0; count < 3; count++) {
            await client.fetchArtifact("a", "a.mp4", destination);
        }
        const taken = scripted.logBytes;
        await log.return();

        assert.deepEqual(await readFile(destination), CONTENT);
        assert.ok(taken <= 300_000, `${taken} bytes were taken for a reader of 100,000`);
    });
});

describe("windows", () => {
    test("Downloads have 4 MiB under way, watches 64 KiB, of their streams and in all.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t);
        await client.fetchArtifact("a", "a.mp4", join(await directory(t), "a.mp4"));
        await client.readLog("a").next();
        const windows = [...scripted.sessions].map(({ remoteSettings, state }) => [
            remoteSettings.initialWindowSize,
            state.remoteWindowSize! > 1 << 20,
        ]);

        assert.deepEqual(windows, [
            [4 << 20, true],
            [64 << 10, false],
        ]);
    });
});

describe("uploads", () => {
    test("Over cuts no byte that has arrived is sent again.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t);
        const path = join(await directory(t), "a.ogg");
        await writeFile(path, CONTENT);
        scripted.breaks = 1;
        const upload = await client.uploadMedia(path);

        assert.deepEqual(scripted.received, CONTENT);
        assert.deepEqual(scripted.firstOffsets, [0n, 524_288n]);
        assert.ok(upload.complete);
    });

    test("A server that is still at the lost call is asked again.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t);
        const path = join(await directory(t), "a.ogg");
        await writeFile(path, CONTENT);
        scripted.busy = 2;
        await client.uploadMedia(path);

        assert.deepEqual(scripted.received, CONTENT);
    });

    test("The id of a complete upload leads to it without a byte sent.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t);
        const path = join(await directory(t), "a.ogg");
        await writeFile(path, CONTENT);
        const uploadId = randomUUID();
        await client.uploadMedia(path, { uploadId });
        const again = await client.uploadMedia(path, { uploadId });

        assert.equal(again.name, `uploads/${uploadId}`);
        assert.deepEqual(scripted.firstOffsets, [0n]);
    });

    test("An id used for another file is refused before anything is sent.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t);
        const path = join(await directory(t), "a.ogg");
        await writeFile(path, CONTENT);
        const uploadId = randomUUID();
        await client.uploadMedia(path, { uploadId });
        await writeFile(path, "another");

        await assert.rejects(client.uploadMedia(path, { uploadId }), IntegrityError);
    });

    test("Nothing is sent of a file that holds nothing, and the error says which it is.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t);
        const path = join(await directory(t), "a.ogg");
        await writeFile(path, "");

        await assert.rejects(client.uploadMedia(path), InvalidRequestError);
        await assert.rejects(client.uploadMedia(`${path}.no`), { code: "ENOENT" });
    });
});
