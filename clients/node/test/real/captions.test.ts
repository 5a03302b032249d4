// SPDX-License-Identifier: Apache-2.0

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import {
    type Caption,
    type CaptionSender,
    type Client,
    ConflictError,
    JobState,
    NotFoundError,
    seconds,
} from "@callsd/client";
import { type Daemon, errors, REAL, speech, startDaemon, WORDS } from "../daemon.js";

const STEP_SECONDS = 0.1;
const STEP_BYTES = 3200;
const SPEC = { captions: { language: "en" } };

let pcm: Buffer;
before(async () => {
    pcm = await speech("kenji", 26, 37.5);
});

/** Send tenths of a second as live sound comes. */
async function play(sender: CaptionSender, first: number, end: number, speed = 1): Promise<void> {
    const began = performance.now();
    for (let step = first; step < end && step * STEP_BYTES < pcm.length; step++) {
        const due = began + ((step - first) * STEP_SECONDS * 1000) / speed;
        await sleep(Math.max(0, due - performance.now()));
        await sender.send("k", pcm.subarray(step * STEP_BYTES, (step + 1) * STEP_BYTES), step / 10);
    }
}

/** The final captions of a call, at its end. */
async function finals(client: Client, job: string): Promise<Caption[]> {
    const found = [];
    for await (const { message } of client.watchCaptions(job, { resumeSequence: 0 })) {
        if (message.case === "caption" && message.value.isFinal) {
            found.push(message.value);
        }
    }
    return found;
}

/** Use a sender until it throws what has ended it. */
async function told(sender: CaptionSender): Promise<never> {
    for (;;) {
        sender.unmuted("k");
        await sleep(20);
    }
}

function text(captions: readonly Caption[]): string {
    return captions.map((caption) => caption.text).join(" ");
}

describe("live captions and kill -9", { timeout: 110_000 }, () => {
    test("A daemon killed twice mid-sentence: every word is captioned, none twice.", async (t) => {
        const daemon = await startDaemon(REAL);
        t.after(() => daemon.close());
        const { client } = daemon;
        const { name } = (await client.createJob(SPEC)).job;
        const watching = finals(client, name);
        await using sender = await client.streamCaptions(name);
        sender.joined("k", "Kenji");
        for (const [first, end] of [
            [0, 40],
            [40, 80],
        ] as const) {
            await play(sender, first, end);
            await daemon.do("kill");
            void daemon.do("start");
        }
        await play(sender, 80, 1000);
        await sender.close({ timeoutSeconds: 60 });
        await client.stopJob(name);
        const ended = await client.waitJob(name, { timeoutSeconds: 60 });
        const captions = await watching;

        assert.equal(ended.state, JobState.SUCCEEDED);
        assert.deepEqual(
            captions.map((caption) => Number(caption.sequence)),
            captions.map((_, index) => index + 1),
        );
        assert.ok(errors(WORDS, text(captions)) <= 3, text(captions));
        assert.deepEqual(new Set(captions.map((one) => one.displayName)), new Set(["Kenji"]));
        assert.equal(seconds(ended.captionsResult?.skippedDuration), 0);
        assert.equal(seconds(ended.captionsResult?.audioDuration), 11.5);
    });
});

describe("live captions", { timeout: 110_000 }, () => {
    let daemon: Daemon;
    let client: Client;
    before(async () => {
        daemon = await startDaemon(REAL);
        ({ client } = daemon);
    });
    after(() => daemon.close());

    test("Another sender goes on where one that vanished mid-word had been.", async () => {
        const { name } = (await client.createJob(SPEC)).job;
        const watching = finals(client, name);
        const first = await client.streamCaptions(name);
        await play(first, 0, 50, 4);
        while (first.acks.get("k")?.receivedSequence !== 50n) {
            await sleep(20);
        }
        await first.abort();
        await using second = await client.streamCaptions(name);
        const received = Number(second.acks.get("k")!.receivedSequence);
        await play(second, received, 1000, 4);
        await second.close();
        await client.stopJob(name);
        const words = text(await watching);

        assert.equal(received, 50);
        assert.ok(errors(WORDS, words) <= 3, words);
    });

    test("The newer of two senders has the call; the older is told, and does not come back.", async () => {
        const { name } = (await client.createJob(SPEC)).job;
        const older = await client.streamCaptions(name);
        await using newer = await client.streamCaptions(name);
        await play(newer, 0, 3, 4);

        await assert.rejects(told(older), { name: "ConflictError", reason: "STREAM_REPLACED" });
        await play(newer, 3, 6, 4);
        await newer.close();
        await client.stopJob(name);
    });

    test("A job that is stopped takes no more sound, and says so.", async () => {
        const { name } = (await client.createJob(SPEC)).job;
        const sender = await client.streamCaptions(name);
        await client.stopJob(name);
        await client.waitJob(name, { timeoutSeconds: 60 });

        await assert.rejects(told(sender), { name: "ConflictError", reason: "JOB_STATE_CONFLICT" });
        await assert.rejects(client.streamCaptions(name), ConflictError);
    });

    test("A mistake is told when the stream is begun.", async () => {
        await assert.rejects(client.streamCaptions("0".repeat(20)), NotFoundError);
    });
});
