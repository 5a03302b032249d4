// SPDX-License-Identifier: Apache-2.0

import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";

import { Code } from "@connectrpc/connect";

import { Client, ConflictError, SettingsError, type Sound, UnavailableError } from "@callsd/client";
import { Scripted } from "./scripted.js";
import { allSaid, final, said } from "./scripted-captions.js";

const STEP_SECONDS = 0.1;

function* sounds(first: number, end: number): Generator<Sound> {
    for (let number = first; number < end; number++) {
        yield { speaker: "Ada", data: said(number), startOffsetSeconds: number * STEP_SECONDS };
    }
}

describe("sending", () => {
    test("All arrives once, in order, although the server forgets and is cut three times.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t);
        const { captions } = scripted;
        captions.hearing.keepsBack = 3;
        captions.cuts = [2, 1, 1]; // the name alone is one message of each stream
        await using sender = await client.streamCaptions("a");
        sender.joined("Ada", "Ada L.");
        for (const { speaker, data, startOffsetSeconds } of sounds(0, 50)) {
            await sender.send(speaker, data, startOffsetSeconds);
        }
        await sender.close();

        assert.deepEqual(captions.configs, Array(4).fill("jobs/a"));
        assert.deepEqual(captions.hearing.sound("Ada"), allSaid(50));
        assert.equal(sender.acks.get("Ada")?.receivedSequence, 50n);
        assert.equal(sender.lagSeconds, 0);
    });

    test("What is handed over together travels together.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t);
        await using sender = await client.streamCaptions("a");
        await sender.sendBatch(sounds(0, 20));
        await sender.close();

        assert.equal(scripted.captions.hearing.messages, 1);
        assert.deepEqual(scripted.captions.hearing.sound("Ada"), allSaid(20));
    });

    test("Sends that nobody waits for keep their order.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t);
        scripted.captions.hearing.keepsBack = 2;
        await using sender = await client.streamCaptions("a", { keepSeconds: 0.5 });
        const sends = [...sounds(0, 40)].map((sound) => sender.sendBatch([sound]));
        await sender.close();
        await Promise.all(sends);

        assert.deepEqual(scripted.captions.hearing.sound("Ada"), allSaid(40));
    });

    test("A server that works nothing off holds up the sender, not beyond its patience.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t, { patienceSeconds: 0.3 });
        scripted.captions.hearing.keepsBack = 1000;
        await using sender = await client.streamCaptions("a", { keepSeconds: 1 });
        await sender.sendBatch(sounds(0, 10));
        const began = performance.now();

        await assert.rejects(sender.sendBatch(sounds(10, 11)), {
            ...{ name: "DeadlineError", message: /1\.0 s of sound/ },
        });
        assert.ok(performance.now() - began >= 299);
    });

    test("A sender that waits goes on as sound is worked off.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t);
        scripted.captions.hearing.keepsBack = 2;
        await using sender = await client.streamCaptions("a", { keepSeconds: 0.5 });
        await sender.sendBatch(sounds(0, 100));
        await sender.close();

        assert.deepEqual(scripted.captions.hearing.sound("Ada"), allSaid(100));
    });

    test("What ends the sender is thrown by what is called next; nothing is tried again.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t);
        scripted.captions.end = Code.Aborted;
        const sender = await client.streamCaptions("a");
        await sender.send("Ada", said(0), 0);

        await assert.rejects(sender.close(), ConflictError);
        await assert.rejects(sender.send("Ada", said(1), 0.1), ConflictError);
        assert.throws(() => sender.muted("Ada"), ConflictError);
        assert.deepEqual(scripted.captions.configs, ["jobs/a"]);
    });

    test("A wrong address fails when the stream is begun.", async () => {
        using client = new Client({ address: "unix:/tmp/callsd-nobody.sock" });

        await assert.rejects(client.streamCaptions("a"), UnavailableError);
    });

    test("Leaving a sender's block without `close` disconnects at once.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t);
        scripted.captions.hearing.keepsBack = 9;
        const failing = async () => {
            await using sender = await client.streamCaptions("a");
            await sender.send("Ada", said(0), 0);
            throw new Error("no more sound");
        };
        const began = performance.now();

        await assert.rejects(failing(), /no more sound/);
        assert.ok(performance.now() - began < 2000);
    });

    test("Sending after the end is a mistake that is told; closing twice is none.", async (t) => {
        const client = await new Scripted().serve(t);
        const sender = await client.streamCaptions("a");
        await sender.close();
        await sender.close();

        assert.throws(() => sender.muted("Ada"), /closed/);
        await assert.rejects(sender.send("Ada", said(0), 0), /closed/);
    });

    test("A sender whose client is closed says so.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t);
        scripted.captions.hearing.keepsBack = 9;
        const sender = await client.streamCaptions("a");
        await sender.send("Ada", said(0), 0);
        client.close();

        await assert.rejects(sender.close(), { name: "ConflictError", message: /closed/ });
    });

    test("A signal ends the wait for the connection, and for the last sound.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t);
        scripted.captions.hearing.keepsBack = 9;
        await assert.rejects(client.streamCaptions("a", { signal: AbortSignal.abort() }), {
            name: "AbortError",
        });
        const sender = await client.streamCaptions("a");
        scripted.captions.hearing.muteCounts = false;
        await sender.send("Ada", said(0), 0);
        const closing = sender.close({ signal: AbortSignal.timeout(50) });

        await assert.rejects(closing, { name: "TimeoutError" });
    });
});

describe("watching captions", () => {
    test("Each final comes once, in order, over cuts; the end of the stream is the end.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t);
        const { captions } = scripted;
        captions.captions = Array.from({ length: 20 }, (_, index) => final(index + 1));
        captions.cuts = [3, 1, 7];
        const shown = [];
        for await (const { message } of client.watchCaptions("a", { resumeSequence: 0 })) {
            shown.push(message.case === "caption" ? Number(message.value.sequence) : message.case);
        }

        assert.deepEqual(
            shown,
            Array.from({ length: 20 }, (_, index) => index + 1),
        );
        assert.deepEqual(
            captions.watches.map((one) => one.resumeSequence),
            [0n, 3n, 4n, 11n],
        );
    });

    test("A token file that goes with its daemon and comes back ends no watch.", async (t) => {
        const scripted = new Scripted();
        await scripted.serve(t);
        const directory = await mkdtemp(join(tmpdir(), "callsd-"));
        t.after(() => rm(directory, { recursive: true }));
        const tokenFile = join(directory, "token");
        await writeFile(tokenFile, "secret");
        using client = new Client({ address: scripted.address, tokenFile });
        scripted.captions.captions = [final(1), final(2)];
        scripted.captions.cuts = [1];
        const captions = client.watchCaptions("a");
        await captions.next();
        await rm(tokenFile);
        setTimeout(() => void writeFile(tokenFile, "another"), 300);
        await captions.next();

        assert.equal(scripted.captions.watches.length, 2);
        await rm(tokenFile);
        await assert.rejects(client.watchCaptions("a").next(), SettingsError);
    });

    test("A final that is left out is an error, not a gap.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t);
        scripted.captions.captions = [final(1), final(3)];
        const captions = client.watchCaptions("a");
        await captions.next();

        await assert.rejects(captions.next(), {
            name: "IntegrityError",
            message: /3 where 2 was due/,
        });
    });

    test("A watch whose client is closed does not try again for ever.", async (t) => {
        const scripted = new Scripted();
        const client = await scripted.serve(t);
        scripted.captions.captions = [final(1), final(2)];
        const captions = client.watchCaptions("a");
        await captions.next();
        client.close();

        await assert.rejects(async () => {
            for await (const _ of captions);
        }, /the client is closed/);
    });
});
