// SPDX-License-Identifier: Apache-2.0

/** What a page has to show of a call, for those who come late as well. */

import { CaptionEventType, type WatchCaptionsResponse, seconds } from "@callsd/client";

/** Final captions kept for late joiners: about half an hour of talk. */
const MAX_FINALS = 500;

/** Words as the page shows them. */
export interface Line {
    readonly speaker: string;
    readonly name: string;
    readonly text: string;
    /** When the first word begins, from the start of the call. */
    readonly startSeconds: number;
}

/** Words that will not change; numbered from 1 without gap. */
export interface Final extends Line {
    readonly sequence: number;
}

/** How the captions are. */
export interface Status {
    readonly state: "live" | "degraded" | "waiting" | "over";
    /** For a person; may be empty. */
    readonly detail: string;
}

/** One thing that a page is told. */
export type News =
    | { readonly type: "final"; readonly data: Final }
    /** The newest words of a speaker; without text they are taken back. */
    | { readonly type: "interim"; readonly data: Line }
    | { readonly type: "status"; readonly data: Status };

/** Keeps the recent final captions, what each speaker is saying, and how the captions are. */
export class Board {
    readonly #finals: Final[] = [];
    /** By speaker: the next one of the same speaker replaces it. */
    readonly #interims = new Map<string, Line>();
    #status: Status = { state: "live", detail: "" };

    /** Everything that somebody must be told who has seen the finals up to a number. */
    since(sequence: number): News[] {
        return [
            { type: "status", data: this.#status },
            ...this.#finals
                .filter((final) => final.sequence > sequence)
                .map((data) => ({ type: "final", data }) as const),
            ...[...this.#interims.values()].map((data) => ({ type: "interim", data }) as const),
        ];
    }

    /** Learn from a message of a watch; what is new of it. */
    learn({ message }: WatchCaptionsResponse): News[] {
        const isBack = this.#status.state === "waiting";
        const news = isBack ? this.tell({ state: "live", detail: "" }) : [];
        if (message.case === "event") {
            const { type, detail } = message.value;
            if (type === CaptionEventType.DEGRADED) {
                return this.tell({ state: "degraded", detail });
            }
            return type === CaptionEventType.RECOVERED
                ? this.tell({ state: "live", detail: "" })
                : news;
        }
        if (message.case !== "caption") {
            return news;
        }
        const { speaker, displayName, text, startOffset, endOffset, isFinal } = message.value;
        const startSeconds = seconds(startOffset);
        const line = { speaker, name: displayName || speaker, text, startSeconds };
        if (!isFinal) {
            return [...news, ...this.#interim(line)];
        }
        // The words that are shown have become final; later ones of the speaker come anew.
        const shown = this.#interims.get(speaker);
        const isSame = shown !== undefined && shown.startSeconds < seconds(endOffset);
        const final = { ...line, sequence: Number(message.value.sequence) };
        this.#finals.push(final);
        if (this.#finals.length > MAX_FINALS) {
            this.#finals.shift();
        }
        const taken = isSame ? this.#interim({ ...shown, text: "" }) : [];
        return [...news, { type: "final", data: final }, ...taken];
    }

    /** Change how the captions are. */
    tell(status: Status): News[] {
        this.#status = status;
        return [{ type: "status", data: status }];
    }

    /** The call is over: nothing that is shown will become final any more. */
    end(): News[] {
        const taken = [...this.#interims.values()].flatMap((line) =>
            this.#interim({ ...line, text: "" }),
        );
        return [...taken, ...this.tell({ state: "over", detail: "" })];
    }

    #interim(line: Line): News[] {
        if (line.text) {
            this.#interims.set(line.speaker, line);
        } else if (!this.#interims.delete(line.speaker)) {
            return [];
        }
        return [{ type: "interim", data: line }];
    }
}
