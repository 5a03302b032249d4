// SPDX-License-Identifier: Apache-2.0

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { create, type MessageInitShape } from "@bufbuild/protobuf";

import {
    CaptionEventType,
    type CaptionSchema,
    duration,
    WatchCaptionsResponseSchema,
} from "@callsd/client";
import { Board, type News } from "../examples/live-captions/board.js";

function caption(text: string, at: number, value: MessageInitShape<typeof CaptionSchema> = {}) {
    const times = { startOffset: duration(at), endOffset: duration(at + 1) };
    return create(WatchCaptionsResponseSchema, {
        message: {
            case: "caption",
            value: { speaker: "a", displayName: "Ada", text, ...times, ...value },
        },
    });
}

function final(sequence: number, text = `word ${sequence}`) {
    return caption(text, sequence, { isFinal: true, sequence: BigInt(sequence) });
}

function told(news: readonly News[]): string[] {
    return news.map(({ type, data }) =>
        type === "status" ? `is ${data.state}` : `${type} ${data.name}: ${data.text}`,
    );
}

describe("what a page has to show", () => {
    test("Who comes late is told what is said now, and the recent finals, in order.", () => {
        const board = new Board();
        board.learn(final(1));
        board.learn(final(2));
        board.learn(caption("and so", 3));

        assert.deepEqual(told(board.since(0)), [
            ...["is live", "final Ada: word 1", "final Ada: word 2", "interim Ada: and so"],
        ]);
        assert.deepEqual(told(board.since(1)).slice(0, 2), ["is live", "final Ada: word 2"]);
    });

    test("Old finals are let go of.", () => {
        const board = new Board();
        for (let sequence = 1; sequence <= 600; sequence++) {
            board.learn(final(sequence));
        }

        assert.deepEqual(told(board.since(0)).slice(0, 2), ["is live", "final Ada: word 101"]);
        assert.equal(board.since(0).length, 501);
    });

    test("A final takes back the interim whose words it has, and no later one.", () => {
        const board = new Board();
        board.learn(caption("hello", 1));
        assert.deepEqual(told(board.learn(final(1, "Hello."))), [
            "final Ada: Hello.",
            "interim Ada: ",
        ]);

        board.learn(caption("later words", 9));
        assert.deepEqual(told(board.learn(final(2))), ["final Ada: word 2"]);
        assert.deepEqual(told(board.since(2)), ["is live", "interim Ada: later words"]);
    });

    test("An interim without text takes back what was shown; of nothing there is no news.", () => {
        const board = new Board();
        board.learn(caption("hm", 1));

        assert.deepEqual(told(board.learn(caption("", 1))), ["interim Ada: "]);
        assert.deepEqual(told(board.learn(caption("", 1))), []);
    });

    test("Pages learn of slow captions, of silence, and of the end.", () => {
        const board = new Board();
        const event = (type: CaptionEventType) =>
            create(WatchCaptionsResponseSchema, { message: { case: "event", value: { type } } });
        board.learn(caption("and then", 1));

        assert.deepEqual(told(board.learn(event(CaptionEventType.DEGRADED))), ["is degraded"]);
        assert.deepEqual(told(board.learn(event(CaptionEventType.RECOVERED))), ["is live"]);
        assert.deepEqual(told(board.tell({ state: "waiting", detail: "" })), ["is waiting"]);
        assert.deepEqual(told(board.learn(create(WatchCaptionsResponseSchema))), ["is live"]);
        assert.deepEqual(told(board.end()), ["interim Ada: ", "is over"]);
        assert.deepEqual(told(board.since(0)), ["is over"]);
    });
});
