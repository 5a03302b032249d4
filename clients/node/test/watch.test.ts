// SPDX-License-Identifier: Apache-2.0

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { create } from "@bufbuild/protobuf";

import {
    type CallsdError,
    CapacityError,
    ConflictError,
    JobEventSchema,
    JobSchema,
    JobState,
    NotFoundError,
    OutOfRangeError,
    UnavailableError,
    type WatchEvent,
    type WatchJobsResponse,
    WatchJobsResponseSchema,
} from "@callsd/client";
import { Backoff } from "../src/resume.js";
import { JobEnding, JobWatch } from "../src/watch.js";
import { Chance } from "./chance.js";

const CUT = new UnavailableError("cut", { code: "UNAVAILABLE" });
const COMPACTED = new OutOfRangeError("compacted", {
    ...{ code: "OUT_OF_RANGE", reason: "REVISION_COMPACTED" },
});

/** The server's side of the promise: a history, of which some is forgotten. */
class Server {
    databaseId = "db";
    revision = 0;
    oldest = 0;
    readonly jobs = new Map<string, number>();
    readonly history: { revision: number; name: string; isDeleted: boolean }[] = [];

    /** One more revision. */
    change(name: string, isDeleted: boolean): void {
        if (isDeleted && !this.jobs.has(name)) {
            return;
        }
        this.revision += 1;
        this.history.push({ revision: this.revision, name, isDeleted });
        if (isDeleted) {
            this.jobs.delete(name);
        } else {
            this.jobs.set(name, this.revision);
        }
    }

    /** What a call would send until now, `batch` events a message. */
    *answer(request: ReturnType<JobWatch["request"]>, batch: number): Generator<WatchJobsResponse> {
        const resume = request.resumeRevision as bigint | undefined;
        if (resume !== undefined) {
            if (request.databaseId !== this.databaseId || resume < this.oldest) {
                throw COMPACTED;
            }
            const news = this.history.filter(({ revision }) => revision > resume);
            for (let at = 0; at < news.length; at += batch) {
                const part = news.slice(at, at + batch);
                yield this.#response(part, part.at(-1)!.revision, true);
            }
            return;
        }
        const now = [...this.jobs].map(([name, revision]) => ({
            name,
            revision,
            isDeleted: false,
        }));
        for (let at = 0; at < now.length; at += batch) {
            yield this.#response(now.slice(at, at + batch), 0, false);
        }
        yield this.#response([], this.revision, true);
    }

    #response(items: Server["history"], revision: number, initialStateSent: boolean) {
        return create(WatchJobsResponseSchema, {
            events: items.map((item) => event(item.name, item.revision, item.isDeleted)),
            revision: BigInt(revision),
            initialStateSent,
            databaseId: this.databaseId,
        });
    }
}

function event(name: string, revision: number, isDeleted: boolean) {
    return create(JobEventSchema, {
        revision: BigInt(revision),
        event: isDeleted
            ? { case: "jobDeleted", value: name }
            : { case: "jobChanged", value: { name, revision: BigInt(revision) } },
    });
}

function watch(resume?: string): JobWatch {
    const backoff = new Backoff({ patienceSeconds: 300, clock: () => 0, jitter: () => 0 });
    backoff.answered();
    return new JobWatch({}, resume, backoff);
}

/** One call, cut after some messages; a lost position leads to a second call. */
function run(server: Server, watch: JobWatch, batch = 10, cutAfter = 99): WatchEvent[] {
    const events: WatchEvent[] = [];
    try {
        let count = 0;
        for (const response of server.answer(watch.request(), batch)) {
            if (count++ === cutAfter) {
                break;
            }
            events.push(...watch.receive(response));
        }
        return events;
    } catch (error) {
        const [, more] = watch.failed(error as CallsdError);
        return [...events, ...more, ...run(server, watch, batch)];
    }
}

function names(events: readonly WatchEvent[]): string[] {
    return events.flatMap((one) =>
        one.type === "changed" ? `+${one.job.name}` : one.type === "deleted" ? `-${one.name}` : [],
    );
}

describe("watching jobs", () => {
    test("Through cuts and lost history the view ends as the server is; no news comes twice.", () => {
        for (let seed = 0; seed < 300; seed++) {
            const chance = new Chance(seed);
            const [server, following] = [new Server(), watch()];
            const view = new Map<string, bigint>();
            const take = (events: WatchEvent[]) => {
                for (const one of events) {
                    if (one.type === "changed") {
                        assert.ok(
                            (view.get(one.job.name) ?? -1n) < one.job.revision,
                            `seed ${seed}`,
                        );
                        view.set(one.job.name, one.job.revision);
                    } else if (one.type === "deleted") {
                        assert.ok(view.delete(one.name), `seed ${seed}`);
                    }
                }
            };
            for (let call = chance.below(8); call >= 0; call--) {
                for (let change = chance.below(7); change > 0; change--) {
                    server.change(chance.of("a", "b", "c", "d"), chance.below(2) === 0);
                }
                if (chance.below(2)) {
                    server.oldest = server.revision;
                }
                take(run(server, following, 1 + chance.below(3), chance.below(5)));
            }
            take(run(server, following));

            const expected = [...server.jobs].map(([name, revision]) => [name, BigInt(revision)]);
            assert.deepEqual(
                new Map(view),
                new Map(expected as [string, bigint][]),
                `seed ${seed}`,
            );
        }
    });

    test("After a restore revisions begin again: every job is told, whatever its revision.", () => {
        const [old, restored, following] = [new Server(), new Server(), watch()];
        for (const name of ["a", "a", "a", "b"]) {
            old.change(name, false);
        }
        run(old, following);
        restored.databaseId = "restored";
        restored.change("a", false);

        assert.deepEqual(names(run(restored, following)), ["+a", "-b"]);
    });

    test("A cut within the initial state leads to a whole one, not to its middle.", () => {
        const [server, following] = [new Server(), watch()];
        for (const name of ["a", "b", "c"]) {
            server.change(name, false);
        }
        const first = run(server, following, 1, 2);

        assert.deepEqual(names(first), ["+a", "+b"]);
        assert.ok(!first.some(({ type }) => type === "bookmark"));
        assert.deepEqual(names(run(server, following, 1)), ["+c"]);
    });

    test("A watch begun from a position goes on behind it, deletions of unknown jobs included.", () => {
        const server = new Server();
        server.change("a", false);
        const last = run(server, watch()).at(-1)!;
        assert.equal(last.type, "bookmark");
        server.change("a", true);
        server.change("b", false);
        const later = watch(JSON.parse(JSON.stringify(last.position)) as string);

        assert.deepEqual(names(run(server, later)), ["-a", "+b"]);
    });

    test("A watch begun from a position that is lost cannot tell what has gone: it ends.", () => {
        const server = new Server();
        server.change("a", false);
        server.oldest = 1;

        assert.throws(() => run(server, watch("db/0")), COMPACTED);
        assert.throws(() => watch("nonsense"), OutOfRangeError);
    });

    test("A deletion of a job that never matched the filter is no news.", () => {
        const following = watch();
        run(new Server(), following);
        const response = create(WatchJobsResponseSchema, {
            events: [event("a", 1, true)],
            ...{ revision: 1n, databaseId: "db", initialStateSent: true },
        });

        assert.deepEqual(names([...following.receive(response)]), []);
    });

    test("The reader learns of a lost connection and of the next try.", () => {
        const [delay, events] = watch().failed(CUT);

        assert.equal(delay, 0.05);
        assert.deepEqual(events, [{ type: "interrupted", error: CUT, retrySeconds: 0.05 }]);
    });
});

describe("coming back", () => {
    const patient = { patienceSeconds: 300, clock: () => 0, jitter: () => 1 };

    test("A stream that never worked fails at once: a wrong address does not cost minutes.", () => {
        assert.throws(() => new Backoff(patient).failed(CUT), CUT);
    });

    test("A server that has answered other calls is waited for; what it refuses is told.", () => {
        const backoff = new Backoff({ ...patient, isKnown: true });
        const full = new CapacityError("full", {
            code: "RESOURCE_EXHAUSTED",
            reason: "STREAMS_EXHAUSTED",
        });

        assert.equal(backoff.failed(CUT), 0.1);
        assert.throws(() => backoff.failed(full), full);
        backoff.answered();
        assert.equal(backoff.failed(full), 0.1);
    });

    test("Tries come quickly at first, then every few seconds; an answer begins anew.", () => {
        const backoff = new Backoff(patient);
        backoff.answered();
        const delays = Array.from({ length: 8 }, () => backoff.failed(CUT));
        backoff.answered();

        assert.deepEqual(delays, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5]);
        assert.equal(backoff.failed(CUT), 0.1);
    });

    test("Clients cut off together do not come back together.", () => {
        const delays = [0, 0.25, 1].map((jitter) => {
            const backoff = new Backoff({ ...patient, jitter: () => jitter });
            backoff.answered();
            return backoff.failed(CUT);
        });

        assert.deepEqual(delays, [0.05, 0.0625, 0.1]);
    });

    test("The server's own delay is the least.", () => {
        const backoff = new Backoff(patient);
        backoff.answered();
        const draining = new UnavailableError("", { code: "UNAVAILABLE", retryAfterSeconds: 3 });

        assert.equal(backoff.failed(draining), 3);
    });

    test("A server that stays away is given up after the patience, or at the deadline.", () => {
        let time = 0;
        const backoff = new Backoff({ ...patient, clock: () => time });
        const limited = new Backoff({ ...patient, clock: () => time, timeoutSeconds: 10 });
        backoff.answered();
        limited.answered();
        time = 9.95;
        assert.throws(() => limited.failed(CUT), { name: "DeadlineError", message: /was: cut/ });
        time = 300;
        assert.ok(backoff.failed(CUT));
        time = 300.1;
        assert.throws(() => backoff.failed(CUT), CUT);
    });

    test("Being dropped for slowness is no end; a refusal is.", () => {
        const backoff = new Backoff(patient);
        backoff.answered();
        const slow = new ConflictError("", { code: "ABORTED", reason: "SLOW_CONSUMER" });
        const refusal = new ConflictError("", { code: "ABORTED", reason: "STREAM_REPLACED" });

        assert.ok(backoff.failed(slow));
        assert.throws(() => backoff.failed(refusal), refusal);
    });
});

describe("waiting for a job's end", () => {
    const changed = (state: JobState): WatchEvent => ({
        ...{ type: "changed", revision: 1n },
        job: create(JobSchema, { name: "jobs/a", state }),
    });
    const bookmark: WatchEvent = { type: "bookmark", position: "db/1" };

    test("The job is returned as it ended, and not before.", () => {
        const ending = new JobEnding("jobs/a");

        assert.equal(ending.observe(changed(JobState.RUNNING)), undefined);
        assert.equal(ending.observe(bookmark), undefined);
        assert.equal(ending.observe(changed(JobState.FAILED))?.state, JobState.FAILED);
    });

    test("A job that is deleted, also before the watch began, is not waited for in vain.", () => {
        const deleted: WatchEvent = { type: "deleted", name: "jobs/a", revision: 2n };

        assert.throws(() => new JobEnding("jobs/a").observe(bookmark), NotFoundError);
        assert.throws(() => new JobEnding("jobs/a").observe(deleted), { reason: "JOB_NOT_FOUND" });
    });
});
