// SPDX-License-Identifier: Apache-2.0

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test, type TestContext } from "node:test";

import {
    AccessError,
    type Bookmark,
    CapacityError,
    Client,
    ConflictError,
    DeadlineError,
    type Job,
    JobState,
    NotFoundError,
    OutOfRangeError,
    UnavailableError,
    type WatchEvent,
} from "@callsd/client";
import { type Daemon, startDaemon } from "../daemon.js";

const LIMIT = { timeoutSeconds: 30 };

/** A job whose scripted worker does `script`. */
function spec(daemon: Daemon, script = "succeed") {
    const media = { case: "path", value: daemon.track } as const;
    return { transcription: { tracks: [{ media, speaker: "Ada" }], initialPrompt: script } };
}

async function all<Item>(items: AsyncIterable<Item>): Promise<Item[]> {
    const found = [];
    for await (const item of items) {
        found.push(item);
    }
    return found;
}

async function folder(t: TestContext): Promise<string> {
    const path = await mkdtemp(join(tmpdir(), "callsd-"));
    t.after(() => rm(path, { recursive: true }));
    return path;
}

async function until(client: Client, job: Job, state: JobState): Promise<void> {
    for await (const event of client.watchJobs({ names: [job.name] }, LIMIT)) {
        if (event.type === "changed" && event.job.state === state) {
            return;
        }
    }
}

describe("a real daemon", { timeout: 110_000 }, () => {
    let daemon: Daemon;
    let client: Client;

    before(async () => {
        daemon = await startDaemon();
        client = daemon.client;
    });

    after(() => daemon.close());

    test("A job is made, ends, and hands out what it made.", async (t) => {
        const path = join(await folder(t), "t.vtt");
        const { job } = await client.createJob(spec(daemon), { labels: { call: "one" } });
        const ended = await client.waitJob(job, LIMIT);
        await client.fetchArtifact(ended, "transcript.vtt", path);

        assert.equal(ended.state, JobState.SUCCEEDED);
        assert.deepEqual(ended.labels, { call: "one" });
        assert.equal(await readFile(path, "utf8"), "WEBVTT\n");
        assert.deepEqual(await client.getJob(job.name.replace("jobs/", "")), ended);
    });

    test("`waitJob` tells of a failure by the job, not by an error.", async () => {
        const { job } = await client.createJob(spec(daemon, "fail INPUT_INVALID"));

        assert.equal((await client.waitJob(job, LIMIT)).state, JobState.FAILED);
    });

    test("A list goes over all its pages.", async () => {
        const labels = { test: "pages" };
        const made = [];
        for (let count = 0; count < 5; count++) {
            made.unshift((await client.createJob(spec(daemon), { labels })).job.name);
        }
        const found = await all(client.listJobs({ labels }, { pageSize: 2 }));

        assert.deepEqual(
            found.map((job) => job.name),
            made,
        );
    });

    test("A running job is stopped, then removed; it cannot be removed before.", async () => {
        const { job } = await client.createJob(spec(daemon, "sleep"));
        await until(client, job, JobState.RUNNING);
        await assert.rejects(client.deleteJob(job), ConflictError);
        await client.stopJob(job);

        assert.equal((await client.waitJob(job, LIMIT)).state, JobState.CANCELLED);
        await client.deleteJob(job);
        await assert.rejects(client.getJob(job), NotFoundError);
    });

    test("A wait ends when its time is over, or by its signal; the job goes on.", async () => {
        const { job } = await client.createJob(spec(daemon, "sleep"));
        await assert.rejects(client.waitJob(job, { timeoutSeconds: 0.3 }), DeadlineError);
        await assert.rejects(client.waitJob(job, { signal: AbortSignal.timeout(300) }), {
            name: "TimeoutError",
        });
        const found = await client.getJob(job);
        await client.stopJob(job);

        assert.ok(![JobState.FAILED, JobState.CANCELLED].includes(found.state));
    });

    test("With noQueue, a full machine refuses with figures and a time to come back.", async () => {
        const jobs = [];
        for (let count = 0; count < 4; count++) {
            jobs.push((await client.createJob(spec(daemon, "sleep"))).job);
        }
        const refused: unknown = await client
            .createJob(spec(daemon), { noQueue: true })
            .catch((error: unknown) => error);
        for (const job of jobs) {
            await client.stopJob(job);
            await client.waitJob(job, LIMIT);
        }

        assert.ok(refused instanceof CapacityError);
        assert.ok(refused.required! > refused.available!);
        assert.ok(refused.retryAfterSeconds! > 0);
    });

    test("validateOnly gives admission's verdict and makes nothing.", async () => {
        const labels = { test: "validate" };
        const answer = await client.createJob(spec(daemon), { labels, validateOnly: true });

        assert.equal(answer.job.name, "");
        assert.ok(answer.admission!.reservation!.cores > 0);
        assert.deepEqual(await all(client.listJobs({ labels })), []);
    });

    test("What was uploaded can be transcribed.", async (t) => {
        const path = join(await folder(t), "a.wav");
        await writeFile(path, "RIFF".repeat(200_000));
        const upload = await client.uploadMedia(path);
        const media = { case: "upload", value: upload.name } as const;
        const transcription = { tracks: [{ media, speaker: "Ada" }], initialPrompt: "succeed" };
        const { job } = await client.createJob({ transcription });

        assert.equal((await client.waitJob(job, LIMIT)).state, JobState.SUCCEEDED);
        await client.deleteUpload(upload);
        await assert.rejects(client.deleteUpload(upload), NotFoundError);
    });

    test("Following a log ends with the job.", async () => {
        const { job } = await client.createJob(spec(daemon));
        const whole = Buffer.concat(await all(client.readLog(job, { follow: true })));

        assert.equal((await client.getJob(job)).state, JobState.SUCCEEDED);
        assert.deepEqual(Buffer.concat(await all(client.readLog(job))), whole);
    });

    test("The server tells what it is, and what it can carry.", async () => {
        const watched = [];
        for await (const capacity of client.watchCapacity()) {
            watched.push(capacity);
            break;
        }

        assert.ok(await client.isServing());
        assert.ok((await client.getServerInfo()).version);
        assert.equal((await client.getCapacity()).cores?.total, 4);
        assert.equal(watched[0]?.cores?.total, 4);
        assert.ok((await client.listModels()).some((model) => model.name === "tiny.test"));
    });

    test("A wrong token is an AccessError; health needs none.", async (t) => {
        const tokenFile = join(await folder(t), "token");
        await writeFile(tokenFile, "callsd_wrong");
        using stranger = new Client({ address: daemon.address, tokenFile });

        assert.ok(await stranger.isServing());
        await assert.rejects(stranger.getServerInfo(), AccessError);
        await assert.rejects(stranger.watchJobs().next(), AccessError);
        await assert.rejects(stranger.streamCaptions("0".repeat(20)), AccessError);
    });

    test("A later watch begins behind a bookmark; a foreign one is refused.", async () => {
        const events = client.watchJobs();
        let position = "";
        for await (const event of events) {
            if (event.type === "bookmark") {
                ({ position } = event);
                break;
            }
        }
        const { job } = await client.createJob(spec(daemon));
        let first = "";
        for await (const event of client.watchJobs({}, { resume: position, ...LIMIT })) {
            if (event.type === "changed") {
                first = event.job.name;
                break;
            }
        }

        assert.equal(first, job.name);
        await assert.rejects(client.watchJobs({}, { resume: "other/1" }).next(), OutOfRangeError);
    });
});

describe("a daemon that goes away", { timeout: 110_000 }, () => {
    test("One watch sees each change once, in order, over kill -9 and a shutdown.", async (t) => {
        const daemon = await startDaemon();
        t.after(() => daemon.close());
        const { client } = daemon;
        const seen: WatchEvent[] = [];
        const made: string[] = [];
        const events = client.watchJobs({}, { timeoutSeconds: 90 });
        const readUntil = async (isReached: (event: WatchEvent) => boolean) => {
            for (;;) {
                const { value: event } = await events.next();
                seen.push(event!);
                if (isReached(event!)) {
                    return;
                }
            }
        };
        for (const end of ["kill", "stop", undefined] as const) {
            const { job } = await client.createJob(spec(daemon));
            made.push(job.name);
            await readUntil(
                (event) =>
                    event.type === "changed" &&
                    event.job.name === job.name &&
                    event.job.state === JobState.SUCCEEDED,
            );
            if (end) {
                await daemon.do(end);
                await readUntil((event) => event.type === "interrupted");
                await daemon.do("start");
            }
        }
        await events.return();
        const told = seen.flatMap((event) => (event.type === "changed" ? event.revision : []));
        const jobs = await all(client.listJobs());

        assert.deepEqual(
            told,
            [...new Set(told)].sort((one, other) => Number(one - other)),
        );
        assert.deepEqual(
            jobs.map((job) => job.name),
            made.reverse(),
        );
        assert.ok(jobs.every((job) => told.includes(job.revision)));
        assert.ok(seen.some((event): event is Bookmark => event.type === "bookmark"));
    });

    test("A job asked for again by its request id, over a restart, is one job.", async (t) => {
        const daemon = await startDaemon();
        t.after(() => daemon.close());
        const options = { requestId: randomUUID() };
        await daemon.client.createJob(spec(daemon), options);
        await daemon.do("kill");
        await assert.rejects(daemon.client.createJob(spec(daemon), options), UnavailableError);
        await daemon.do("start");
        const { job } = await daemon.client.createJob(spec(daemon), options);

        assert.deepEqual(
            (await all(daemon.client.listJobs())).map(({ name }) => name),
            [job.name],
        );
    });
});
