// SPDX-License-Identifier: Apache-2.0

/**
 * Shows a call's live captions in browsers: one watch of callsd, any number of pages.
 *
 *     node dist/examples/live-captions/server.js JOB [PORT]
 *
 * The page is at http://127.0.0.1:PORT/ (8080). It is told by server-sent events; a page that lost
 * its connection comes back by itself and says which caption it has seen last.
 */

import { readFile } from "node:fs/promises";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { extname } from "node:path";

import { CallsdError, Client, SettingsError } from "@callsd/client";

import { Board, type News } from "./board.js";

const PAGE = new URL("../../../examples/live-captions/page/", import.meta.url);
const FILES = new Set(["index.html", "style.css", "page.js"]);
const TYPES: Record<string, string> = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
};

/** Nothing from elsewhere: what is said in a call stays between this server and its pages. */
const HEADERS = {
    "content-security-policy":
        "default-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
};

/** callsd sends something every 5 s: a longer silence is a connection that is being restored. */
const SILENCE_MS = 11_000;

/** A page hears something so often, and so knows when its connection is dead. */
const BEAT_MS = 5_000;

/** A page that does not read is cut off at this; it comes back for what it has missed. */
const MAX_UNREAD_BYTES = 256 << 10;

const MAX_PAGES = 1000;

const [job, port = "8080"] = process.argv.slice(2);
if (!job || !/^\d+$/.test(port)) {
    console.error("usage: server.js JOB [PORT]");
    process.exit(2);
}

const board = new Board();
const pages = new Set<ServerResponse>();

async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { pathname, searchParams } = new URL(request.url ?? "/", "http://localhost");
    if (request.method !== "GET") {
        response.writeHead(405, HEADERS).end();
    } else if (pathname === "/captions") {
        open(response, Number(searchParams.get("after")) || 0);
    } else {
        const file = pathname === "/" ? "index.html" : pathname.slice(1);
        if (!FILES.has(file)) {
            response.writeHead(404, HEADERS).end("not found\n");
            return;
        }
        const content = await readFile(new URL(file, PAGE));
        response.writeHead(200, { ...HEADERS, "content-type": TYPES[extname(file)] }).end(content);
    }
}

/** Begin to tell a page, with what it has not seen. */
function open(response: ServerResponse, after: number): void {
    if (pages.size >= MAX_PAGES) {
        response.writeHead(503, HEADERS).end("too many pages are open\n");
        return;
    }
    response.writeHead(200, { ...HEADERS, "content-type": "text/event-stream" });
    pages.add(response);
    response.on("close", () => pages.delete(response));
    response.write(
        event("call", job) +
            board
                .since(after)
                .map(({ type, data }) => event(type, data))
                .join(""),
    );
}

/** Tell all pages. */
function publish(news: readonly News[]): void {
    send(news.map(({ type, data }) => event(type, data)).join(""));
}

function send(text: string): void {
    for (const page of text ? pages : []) {
        page.write(text);
        if (page.writableLength > MAX_UNREAD_BYTES) {
            page.destroy();
        }
    }
}

function event(type: string, data: unknown): string {
    return `event: ${type}\ndata: ${JSON.stringify(data)}\n\n`;
}

/** Follow the call to its end. */
async function follow(client: Client, job: string): Promise<void> {
    const silence = setTimeout(() => {
        const detail = "no word from the captioning service";
        publish(board.tell({ state: "waiting", detail }));
    }, SILENCE_MS);
    try {
        for await (const message of client.watchCaptions(job, { resumeSequence: 0 })) {
            silence.refresh();
            publish(board.learn(message));
        }
    } finally {
        clearTimeout(silence);
    }
    publish(board.end());
}

const client = new Client();
const server = createServer((request, response) => {
    answer(request, response).catch((error: unknown) => {
        console.error(error);
        response.destroy();
    });
});
server.listen(Number(port), "127.0.0.1", () => {
    const address = server.address();
    const bound = typeof address === "object" ? address?.port : port;
    console.log(`captions of ${job}: http://127.0.0.1:${bound}/`);
});
setInterval(() => send(event("beat", null)), BEAT_MS);
try {
    await follow(client, job);
} catch (error) {
    if (!(error instanceof CallsdError || error instanceof SettingsError)) {
        throw error;
    }
    console.error(`${job}: ${error.message}`);
    process.exit(1);
}
