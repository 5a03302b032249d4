// SPDX-License-Identifier: Apache-2.0

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { create, toBinary } from "@bufbuild/protobuf";

import {
    AudioAckSchema,
    AudioEncoding,
    InvalidRequestError,
    SpeakerEventType,
    type StreamCaptionsRequest,
    StreamCaptionsRequestSchema,
} from "@callsd/client";
import { SentAudio } from "../src/sent-audio.js";
import { type Piece, pieces } from "../src/sound.js";
import { Chance } from "./chance.js";
import { allSaid, Hearing, said } from "./scripted-captions.js";

const STEP_SECONDS = 0.1;
const S16LE = AudioEncoding.S16LE_16KHZ;

function piece(speaker: string, number: number): Piece {
    const sound = { speaker, data: said(number), startOffsetSeconds: number * STEP_SECONDS };
    return pieces(sound, S16LE).next().value as Piece;
}

function begun(...options: ConstructorParameters<typeof SentAudio>): SentAudio {
    const audio = new SentAudio(...options);
    audio.learn([], { isFirst: true });
    return audio;
}

/** Have the server hear what there is to send. */
function flush(audio: SentAudio, hearing: Hearing, atMost = 1000): void {
    for (let count = 0; count < atMost; count++) {
        const message = audio.nextMessage();
        if (!message) {
            return;
        }
        hearing.hear(message);
    }
}

describe("sound", () => {
    test("Long sound is cut at samples, into pieces that follow each other without a gap.", () => {
        const data = Buffer.alloc(96_000, "ab");
        const found = [...pieces({ speaker: "Ada", data, startOffsetSeconds: 1.5 }, S16LE)];

        assert.deepEqual(Buffer.concat(found.map((one) => one.data)), data);
        assert.equal(Math.max(...found.map((one) => one.data.length)), 32_768);
        let due = 24_000;
        for (const one of found) {
            assert.equal(one.startSample, due);
            due += one.samples;
        }
    });

    test("A caller may use the bytes of a sound again: they are copied.", () => {
        const data = said(7);
        const found = pieces({ speaker: "Ada", data, startOffsetSeconds: 0 }, S16LE).next().value!;
        data.fill(0);

        assert.deepEqual(Buffer.from((found as Piece).data), said(7));
    });

    test("An Opus packet lasts as long as its first bytes say.", () => {
        for (const [packet, samples] of [
            [[0x08, 0], 320], // SILK, one frame of 20 ms
            [[0x60, 0], 160], // hybrid, one frame of 10 ms
            [[0xe0, 0], 40], // CELT, one frame of 2.5 ms
            [[0xf9, 0, 0], 640], // CELT, two frames of 20 ms
            [[0xfb, 3, 0], 960], // CELT, three frames of 20 ms
        ] as const) {
            const sound = { speaker: "Ada", data: Uint8Array.from(packet), startOffsetSeconds: 0 };
            const found = [...pieces(sound, AudioEncoding.OPUS)];

            assert.deepEqual(
                found.map((one) => one.samples),
                [samples],
            );
        }
    });

    test("What is no packet, or ends within a sample, is refused before it is sent.", () => {
        for (const [bytes, encoding] of [
            [[], AudioEncoding.OPUS],
            [[0xfb], AudioEncoding.OPUS],
            [[0xfb, 0], AudioEncoding.OPUS],
            [[1, 2, 3], S16LE],
        ] as const) {
            const sound = { speaker: "Ada", data: Uint8Array.from(bytes), startOffsetSeconds: 0 };

            assert.throws(() => [...pieces(sound, encoding)], InvalidRequestError);
        }
    });
});

describe("what a sender keeps", () => {
    test("Through cuts and restarts the server hears all that was said, once, in order.", () => {
        for (let seed = 0; seed < 300; seed++) {
            const chance = new Chance(seed);
            const [audio, hearing] = [begun(), new Hearing()];
            hearing.keepsBack = chance.below(6);
            const numbers = new Map([..."abc"].map((speaker) => [speaker, 0]));
            for (let step = chance.below(30); step > 0; step--) {
                const speaker = chance.of(..."abc");
                switch (chance.of("say", "mute", "cut", "ack")) {
                    case "say":
                        for (let count = 1 + chance.below(4); count > 0; count--) {
                            audio.add(piece(speaker, numbers.get(speaker)!));
                            numbers.set(speaker, numbers.get(speaker)! + 1);
                        }
                        break;
                    case "mute":
                        audio.change(speaker, SpeakerEventType.MUTED);
                        break;
                    case "cut":
                        flush(audio, hearing, chance.below(4));
                        if (chance.below(2)) {
                            hearing.restart();
                        }
                        audio.learn(hearing.acks(), { isFirst: true });
                        break;
                    case "ack":
                        flush(audio, hearing);
                        audio.learn(hearing.acks(), { isFirst: false });
                }
            }
            audio.endSpeech();
            flush(audio, hearing);
            audio.learn(hearing.acks(), { isFirst: false });

            assert.equal(hearing.repeated, 0, `seed ${seed}`);
            assert.ok(audio.isWorkedOff, `seed ${seed}`);
            assert.equal(audio.lagSeconds, 0, `seed ${seed}`);
            for (const [speaker, count] of numbers) {
                assert.deepEqual(hearing.sound(speaker), allSaid(count), `seed ${seed}`);
            }
        }
    });

    test("Another sender of the same call continues the numbers, and not the sound.", () => {
        const [hearing, first, second] = [new Hearing(), begun(), new SentAudio()];
        first.add(piece("Ada", 0));
        flush(first, hearing);
        second.learn(hearing.acks(), { isFirst: true });
        second.add(piece("Ada", 1));
        flush(second, hearing);

        assert.deepEqual(hearing.sound("Ada"), allSaid(2));
    });

    test("Sound that we did not send: somebody else does, and we do not fight for the call.", () => {
        const audio = begun();
        audio.add(piece("Ada", 0));
        const ack = create(AudioAckSchema, { speaker: "Ada", receivedSequence: 2n });

        assert.throws(() => audio.learn([ack], { isFirst: true }), { reason: "STREAM_REPLACED" });
    });

    test("A speaker's sound fits up to the limit; one piece always does; all share the bytes.", () => {
        const audio = begun(0.15, 7000);
        assert.ok(audio.hasRoom(piece("a", 0)));
        audio.add(piece("a", 0));
        assert.ok(audio.hasRoom(piece("b", 0)));
        audio.add(piece("b", 0));

        assert.ok(!audio.hasRoom(piece("a", 1)), "too many seconds");
        assert.ok(!audio.hasRoom(piece("c", 0)), "too many bytes");
    });

    test("Lag is the slowest speaker's sound, from the oldest that is not worked off.", () => {
        const [audio, hearing] = [begun(), new Hearing()];
        hearing.keepsBack = 3;
        for (let number = 0; number < 5; number++) {
            audio.add(piece("Ada", number));
        }
        assert.equal(audio.lagSeconds, 0.5);
        flush(audio, hearing);
        audio.learn(hearing.acks(), { isFirst: false });

        assert.equal(audio.lagSeconds, 0.3);
        assert.equal(audio.acks.get("Ada")?.receivedSequence, 5n);
    });

    test("Stamps that are a little off make no holes, which would never count as worked off.", () => {
        const audio = begun();
        audio.add(piece("Ada", 0));
        const late = piece("Ada", 1);
        audio.add({ ...late, startSample: late.startSample + 160 });
        const message = audio.nextMessage()!.message;

        assert.equal(message.case, "batch");
        assert.equal(message.value.chunks[1]?.startOffset?.nanos, 100_000_000);
    });

    test("However much there is, no message is larger than the server takes.", () => {
        const audio = begun(3600);
        const name = "ü".repeat(200);
        for (let number = 0; number < 2500; number++) {
            audio.add({ speaker: name, data: Buffer.alloc(2), startSample: number, samples: 1 });
        }
        for (let number = 0; number < 40; number++) {
            const data = Buffer.alloc(32 << 10);
            audio.add({ speaker: "b", data, startSample: number * 16_384, samples: 16_384 });
        }
        const messages: StreamCaptionsRequest[] = [];
        for (let next = audio.nextMessage(); next; next = audio.nextMessage()) {
            messages.push(next);
        }
        const sizes = messages.map(({ message }) =>
            message.case === "batch" ? message.value.chunks.length : 1,
        );

        assert.equal(
            sizes.reduce((sum, size) => sum + size),
            2540,
        );
        assert.ok(Math.max(...sizes) <= 1000);
        for (const message of messages) {
            assert.ok(toBinary(StreamCaptionsRequestSchema, message).length <= (512 << 10) + 100);
        }
    });

    test("A server that may have missed them learns who is who, and who is silent.", () => {
        const audio = begun();
        audio.change("a", SpeakerEventType.JOINED, "Ada");
        audio.add(piece("a", 0));
        audio.change("a", SpeakerEventType.MUTED);
        audio.change("a", SpeakerEventType.UNMUTED);
        flush(audio, new Hearing());
        const again = new Hearing();
        audio.learn([], { isFirst: true });
        flush(audio, again);

        assert.deepEqual(
            again.events.map((event) => [event.type, event.displayName]),
            [
                [SpeakerEventType.JOINED, "Ada"],
                [SpeakerEventType.UNMUTED, ""],
            ],
        );
        assert.deepEqual(again.sound("a"), said(0));
    });
});
