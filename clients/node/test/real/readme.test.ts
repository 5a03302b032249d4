// SPDX-License-Identifier: Apache-2.0

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import { type Daemon, errors, REAL, SAMPLE_CALL, speech, startDaemon, WORDS } from "../daemon.js";

const run = promisify(execFile);

const PACKAGE = fileURLToPath(new URL("../../../", import.meta.url));
/** Inside the package, so that it is found by its name. */
const COMPILED = join(PACKAGE, "dist", "readme");
const QUICK_START_LINES = 30;

/** What stands around the example that is no whole program. */
const AROUND = `import { Client, JobState } from "@callsd/client";
declare const client: Client;
declare function save(position: string): void;
`;

describe("README.md", { timeout: 110_000 }, () => {
    let daemon: Daemon;
    let folder: string;
    let examples: string[];

    before(async () => {
        const text = await readFile(join(PACKAGE, "README.md"), "utf8");
        examples = [...text.matchAll(/^```ts\n(.*?)^```/gms)].map(([, code]) => code!);
        await mkdir(COMPILED, { recursive: true });
        for (const [index, code] of examples.entries()) {
            const isWhole = code.includes("@callsd/client");
            await writeFile(join(COMPILED, `${index}.ts`), isWhole ? code : AROUND + code);
        }
        const settings = {
            extends: "../../tsconfig.json",
            compilerOptions: { rootDir: ".", outDir: "." },
            files: examples.map((_, index) => `${index}.ts`),
            include: [],
        };
        await writeFile(join(COMPILED, "tsconfig.json"), JSON.stringify(settings));
        await run(join(PACKAGE, "node_modules", ".bin", "tsc"), ["-p", COMPILED]);
        folder = await mkdtemp(join(tmpdir(), "callsd-"));
        daemon = await startDaemon(REAL);
    });

    after(async () => {
        await rm(folder, { recursive: true });
        await daemon.close();
    });

    async function execute(index: number): Promise<string> {
        const env = { ...process.env, CALLSD_ADDRESS: daemon.address };
        const options = { cwd: folder, env, timeout: 60_000 };
        const done = await run(process.execPath, [join(COMPILED, `${index}.js`)], options);
        assert.equal(done.stderr, "");
        return done.stdout;
    }

    test("The quick start, as it stands there, sends a track and fetches its transcript.", async () => {
        await copyFile(join(SAMPLE_CALL, "maya.ogg"), join(folder, "maya.ogg"));
        await execute(0);

        assert.ok(examples[0]!.split("\n").length <= QUICK_START_LINES);
        assert.match(
            await readFile(join(folder, "maya.vtt"), "utf8"),
            /<v Maya>.*write to them today/s,
        );
    });

    test("The captions example captions a call to its end, and ends with it.", async () => {
        await writeFile(join(folder, "kenji.pcm"), await speech("kenji", 26, 37.5));
        const lines = (await execute(2)).trimEnd().split("\n");
        const words = lines.map((line) => line.replace(/^Kenji: /, "")).join(" ");

        assert.ok(
            lines.every((line) => line.startsWith("Kenji: ")),
            lines.join("\n"),
        );
        assert.ok(errors(WORDS, words) <= 3, words);
    });
});
