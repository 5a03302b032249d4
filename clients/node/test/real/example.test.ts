// SPDX-License-Identifier: Apache-2.0

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import { type Browser, chromium, type Page } from "playwright-core";

import { type Daemon, errors, REAL, speech, startDaemon } from "../daemon.js";

const SERVER = fileURLToPath(new URL("../../examples/live-captions/server.js", import.meta.url));
const STYLE = new URL("../../../examples/live-captions/page/style.css", import.meta.url);
const CHROMIUM = "/usr/bin/chromium";

/** What Nina and Joe say in the first seconds of the sample call. */
const SECONDS = 12;
const NINA = "One question for the notes. Did any customer complain, or did we notice it first?";
/** A name that is text, whatever it looks like. */
const NAMES = { nina: "<b>Nina</b>", joe: "Joe" };

/** Least contrast of text: WCAG 2.2, level AA. */
const MIN_CONTRAST = 4.5;

const WAIT_MS = 20_000;

describe("the example: live captions in a browser", { timeout: 110_000 }, () => {
    let daemon: Daemon;
    let browser: Browser;
    let server: ChildProcess;
    let job: string;
    let url: string;

    before(async () => {
        daemon = await startDaemon(REAL);
        job = (await daemon.client.createJob({ captions: { language: "en" } })).job.name;
        browser = await chromium.launch({
            executablePath: CHROMIUM,
            args: process.geteuid?.() === 0 ? ["--no-sandbox"] : [],
        });
        url = await serve("0");
    });

    after(async () => {
        server.kill();
        await browser.close();
        await daemon.close();
    });

    async function serve(port: string): Promise<string> {
        server = spawn(process.execPath, [SERVER, job, port], {
            env: { ...process.env, CALLSD_ADDRESS: daemon.address },
            stdio: ["ignore", "pipe", "inherit"],
        });
        const { value } = await createInterface({ input: server.stdout! })
            [Symbol.asyncIterator]()
            .next();
        return (value as string).split(": ")[1]!;
    }

    async function open(): Promise<Page> {
        const page = await browser.newPage({ reducedMotion: "reduce" });
        page.setDefaultTimeout(WAIT_MS);
        page.on("pageerror", (error) => assert.fail(error));
        await page.goto(url);
        return page;
    }

    function finals(page: Page): Promise<string[]> {
        return page.locator("#finals .text").allTextContents();
    }

    test("Words appear while they are said, and stay once they are final.", async () => {
        const page = await open();
        const tracks = {
            nina: await speech("nina", 0, SECONDS),
            joe: await speech("joe", 0, SECONDS),
        };
        // What is done to interims: "interims" when one comes or goes, "text" when it changes.
        await page.evaluate(`
      globalThis.changes = [];
      new MutationObserver((records) => {
        for (const { target } of records) globalThis.changes.push(target.id || target.className);
      }).observe(document.querySelector("#interims"), { childList: true, subtree: true });`);
        await using sender = await daemon.client.streamCaptions(job);
        for (const [speaker, name] of Object.entries(NAMES)) {
            sender.joined(speaker, name);
        }
        const began = performance.now();
        const shown = page.locator("#interims li").first().waitFor();
        for (let step = 0; step < SECONDS * 10; step++) {
            await sleep(Math.max(0, began + step * 100 - performance.now()));
            await sender.sendBatch(
                Object.entries(tracks).map(([speaker, data]) => ({
                    speaker,
                    data: data.subarray(step * 3200, (step + 1) * 3200),
                    startOffsetSeconds: step / 10,
                })),
            );
        }
        await shown;
        await sender.close();
        await page.locator("#finals li", { hasText: "Joe" }).first().waitFor();
        const words = page.locator("#finals li", { has: page.getByText(NAMES.nina) });
        const nina = (await words.locator(".text").allTextContents()).join(" ");

        assert.ok(errors(NINA, nina) <= 3, nina);
        assert.equal(await page.locator("#interims li").count(), 0);
        assert.equal(await page.locator("#finals b").count(), 0);
        assert.equal(await page.locator("#status").textContent(), "Live");
        assert.notEqual(
            await page.locator("#finals li").first().getAttribute("data-speaker"),
            await page.locator("#finals li").last().getAttribute("data-speaker"),
        );
        const changes = await page.evaluate<string[]>("globalThis.changes");
        const inPlace = changes.filter((change) => change === "text").length;
        assert.ok(inPlace >= 5, `${inPlace} interims replaced in place: ${changes.join(" ")}`);
    });

    test("Who comes late sees what was said.", async () => {
        const [first, late] = browser
            .contexts()
            .flatMap((context) => context.pages())
            .concat(await open());
        await late!.locator("#finals li").first().waitFor();

        assert.deepEqual(await finals(late!), await finals(first!));
    });

    test("A page that lost its server says so, comes back by itself, and repeats nothing.", async () => {
        const page = await open();
        await page.locator("#finals li").first().waitFor();
        const before = await finals(page);
        const gone = once(server, "exit");
        server.kill();
        await gone;
        await page.getByRole("status").getByText("Connection lost: trying again").waitFor();
        await serve(new URL(url).port);
        await page.getByRole("status").getByText("Live", { exact: true }).waitFor();

        assert.deepEqual(await finals(page), before);
    });

    test("A screen reader is told finals when it is free, and never interims.", async () => {
        const page = await open();
        const log = page.getByRole("log", { name: "What was said" });
        const speaking = page.getByRole("list", { name: "What is being said" });

        assert.equal(await log.getAttribute("aria-live"), "polite");
        assert.equal(await speaking.getAttribute("aria-live"), "off");
        assert.equal(await page.locator("[aria-live=polite] #interims").count(), 0);
    });

    test("The size of the text is set from the keyboard, and kept.", async () => {
        const page = await open();
        const size = () =>
            page.evaluate<number>(
                'parseFloat(getComputedStyle(document.querySelector(".column")).fontSize)',
            );
        const usual = await size();
        await page.keyboard.press("Tab");
        await page.keyboard.press("Tab");
        assert.equal(await page.evaluate("document.activeElement.id"), "larger");
        await page.keyboard.press("Enter");
        await page.keyboard.press("Enter");
        assert.ok((await size()) > usual * 1.25);
        await page.reload();
        assert.ok((await size()) > usual * 1.25);
        await page.keyboard.press("Tab");
        await page.keyboard.press("Tab");
        await page.keyboard.press("Tab");

        assert.equal(await page.evaluate("document.activeElement.id"), "scroller");
    });

    test("Who asked for less motion gets none.", async () => {
        const page = await open();
        await page.evaluate('document.body.dataset.state = "connecting"');

        assert.equal(await page.evaluate("document.getAnimations().length"), 0);
    });

    test("When the call is over, the page says so and keeps its captions.", async () => {
        const page = await open();
        await page.locator("#finals li").first().waitFor();
        const before = await finals(page);
        await daemon.client.stopJob(job);
        await page.getByRole("status").getByText("The call is over").waitFor();

        assert.deepEqual(await finals(page), before);
    });
});

describe("the example's colours", () => {
    test("Text and each speaker's colour stand out from the paper, in light and in dark.", async () => {
        const style = await readFile(STYLE, "utf8");
        const [light, dark] = style.split("@media (prefers-color-scheme: dark)") as [
            string,
            string,
        ];
        for (const part of [light, dark]) {
            const colours = new Map(
                [...part.matchAll(/--([a-z]+\d?): (#[0-9a-f]{6});/g)].map(([, name, hex]) => [
                    name!,
                    hex!,
                ]),
            );
            const texts = [
                "ink",
                "faint",
                "wait",
                ...Array.from({ length: 8 }, (_, index) => `s${index}`),
            ];
            for (const name of texts) {
                for (const ground of ["paper", "bar"]) {
                    const found = contrast(colours.get(name)!, colours.get(ground)!);
                    assert.ok(found >= MIN_CONTRAST, `${name} on ${ground}: ${found.toFixed(2)}`);
                }
            }
        }
    });
});

/** Contrast of two colours, 1 to 21. Source: WCAG 2.2, "contrast ratio". */
function contrast(one: string, other: string): number {
    const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b) as [
        number,
        number,
    ];
    return (light + 0.05) / (dark + 0.05);
}

function luminance(hex: string): number {
    const [red, green, blue] = [1, 3, 5].map((at) => {
        const value = Number.parseInt(hex.slice(at, at + 2), 16) / 255;
        return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    }) as [number, number, number];
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}
