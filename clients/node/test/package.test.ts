// SPDX-License-Identifier: Apache-2.0

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { describe, test } from "node:test";

const PACKAGE = new URL("../../", import.meta.url);
const ROOT = new URL("../../", PACKAGE);

describe("the package", () => {
    test("It has the version of the whole.", async () => {
        const project = await readFile(new URL("pyproject.toml", ROOT), "utf8");
        const { version } = JSON.parse(await readFile(new URL("package.json", PACKAGE), "utf8"));
        const lock = JSON.parse(await readFile(new URL("package-lock.json", PACKAGE), "utf8"));

        assert.equal(version, /^version = "(.*)"$/m.exec(project)?.[1]);
        assert.equal(lock.version, version);
    });

    test("It carries the licence of the whole.", async () => {
        const whole = await readFile(new URL("LICENSE", ROOT), "utf8");

        assert.equal(await readFile(new URL("LICENSE", PACKAGE), "utf8"), whole);
    });

    test("Its lock names no registry: each is installed from that of whoever installs.", async () => {
        const lock = await readFile(new URL("package-lock.json", PACKAGE), "utf8");

        assert.doesNotMatch(lock, /"resolved"/);
        assert.match(lock, /"integrity"/);
    });
});
