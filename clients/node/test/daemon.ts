// SPDX-License-Identifier: Apache-2.0

/** A real `callsd serve` in a directory of its own, started by `daemon.py` beside the source. */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

import { Client } from "@callsd/client";

/** The repository's root: two above the package, whose compiled tests are in dist/test. */
export const ROOT = fileURLToPath(new URL("../../../../", import.meta.url));
export const SAMPLE_CALL = join(ROOT, "daemon", "callsd_bench", "sample_call");

const PYTHON = join(ROOT, ".venv", "bin", "python");
const SCRIPT = join(ROOT, "clients", "node", "test", "daemon.py");

/** With real workers and the weights of tiny.en, on the machine as it is. */
export const REAL = { is_real: true, machine: null, config: { admission: { enforced: false } } };

/** One daemon, through all its restarts. */
export interface Daemon {
    readonly address: string;
    readonly tokenFile: string;
    /** A file that a job may name. */
    readonly track: string;
    readonly client: Client;
    /** Have it started again, stopped, or killed as a power cut would. */
    do(command: "start" | "stop" | "kill"): Promise<void>;
    /** End it and all that it has started; throws if its log tells of a bug. */
    close(): Promise<void>;
}

/** Start a daemon; `close` it at the end. */
export async function startDaemon(options: object = {}): Promise<Daemon> {
    const python = spawn(PYTHON, [SCRIPT, JSON.stringify(options)], {
        env: { ...process.env, PYTHONPATH: ROOT },
        stdio: ["pipe", "pipe", "inherit"],
    });
    const ended = once(python, "exit");
    const lines = createInterface({ input: python.stdout })[Symbol.asyncIterator]();
    const answer = async (): Promise<unknown> => {
        const line = await lines.next();
        if (line.done) {
            throw new Error("the daemon's program has ended: is there a .venv (`make setup`)?");
        }
        return JSON.parse(line.value);
    };
    const facts = (await answer()) as Pick<Daemon, "address" | "tokenFile" | "track">;
    const client = new Client(facts);
    return {
        ...facts,
        client,
        do: async (command) => {
            python.stdin.write(`${command}\n`);
            await answer();
        },
        close: async () => {
            client.close();
            python.stdin.end();
            const [code] = await ended;
            if (code !== 0) {
                throw new Error(`the daemon's program ended with ${code}`);
            }
        },
    };
}

/** A stretch of a speaker's track of the sample call, as PCM. */
export async function speech(name: string, first: number, end: number): Promise<Buffer> {
    const script =
        "import sys; from tests.helpers.speech import speech;" +
        ` sys.stdout.buffer.write(speech("${name}", ${first}, ${end}).tobytes())`;
    const python = spawn(PYTHON, ["-c", script], {
        cwd: ROOT,
        stdio: ["ignore", "pipe", "inherit"],
    });
    const pieces = [];
    for await (const piece of python.stdout) {
        pieces.push(piece as Buffer);
    }
    return Buffer.concat(pieces);
}

/** What Kenji says from second 26 to 37.5 of the sample call. */
export const WORDS =
    "There is one more thing that worries me. We only found the problem because the queue was" +
    " long. If the jobs had failed quietly, we would not have known until the morning.";

/** Words that are wrong, missing or too many: the least number of edits. */
export function errors(expected: string, actual: string): number {
    const [wanted, found] = [expected, actual].map((text) =>
        text
            .toLowerCase()
            .replace(/[^a-z ]/g, "")
            .split(/\s+/)
            .filter(Boolean),
    );
    let row = Array.from({ length: found!.length + 1 }, (_, index) => index);
    for (const [index, word] of wanted!.entries()) {
        const next = [index + 1];
        for (const [at, other] of found!.entries()) {
            next.push(
                Math.min(row[at + 1]! + 1, next[at]! + 1, row[at]! + (word === other ? 0 : 1)),
            );
        }
        row = next;
    }
    return row.at(-1)!;
}
