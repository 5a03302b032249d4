// SPDX-License-Identifier: Apache-2.0
// @ts-check

/** Shows what the server tells: finals stay, interims are replaced, a lost connection is said. */

/** @typedef {{ speaker: string, name: string, text: string, startSeconds: number }} Line */
/** @typedef {Line & { sequence: number }} Final */
/** @typedef {{ state: string, detail: string }} Status */

const COLOURS = 8;

/** Captions on the page; older ones are taken off it. */
const MAX_LINES = 500;

/** The server says something every 5 s: after a longer silence the connection is dead. */
const SILENCE_MS = 12_000;

const FIRST_RETRY_MS = 500;
const MAX_RETRY_MS = 5_000;

/** How near to its end the page must be to stay there. Unit: pixels. */
const NEAR_END = 80;

const SIZES = [75, 85, 100, 115, 130, 150, 175, 200, 250];
const SIZE_KEY = "captions-size";

/** @type {Record<string, string>} */
const WORDS = {
    live: "Live",
    degraded: "Captions are slower than usual",
    waiting: "Captions are delayed",
    over: "The call is over",
    connecting: "Connection lost: trying again",
};

/** @param {string} id */
const element = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

const [scroller, finals, interims, newest] = ["scroller", "finals", "interims", "newest"].map(
    element,
);

/** Speakers in the order in which they appeared. @type {string[]} */
const speakers = [];

/** What each speaker is saying. @type {Map<string, HTMLElement>} */
const speaking = new Map();

/** The last final caption shown. @type {Final | undefined} */
let last;
let call = "";

// What the server tells

let retryMs = FIRST_RETRY_MS;

function connect() {
    const source = new EventSource(`captions?after=${last?.sequence ?? 0}`);
    /** @type {number | undefined} */
    let timer;
    const retry = () => {
        clearTimeout(timer);
        source.close();
        show({ state: "connecting", detail: "" });
        setTimeout(connect, retryMs * (0.5 + Math.random() / 2));
        retryMs = Math.min(retryMs * 2, MAX_RETRY_MS);
    };
    /**
     * @template Data
     * @param {string} type
     * @param {(data: Data) => void} learn
     */
    const on = (type, learn) =>
        source.addEventListener(type, ({ data }) => {
            clearTimeout(timer);
            timer = setTimeout(retry, SILENCE_MS);
            const isAtEnd =
                scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < NEAR_END;
            learn(JSON.parse(data));
            if (isAtEnd) {
                toEnd();
            }
        });
    timer = setTimeout(retry, SILENCE_MS);
    source.addEventListener("error", retry);
    on("beat", () => undefined);
    on("call", (/** @type {string} */ name) => {
        retryMs = FIRST_RETRY_MS;
        // What was being said when the connection broke comes again, if it still holds.
        interims.replaceChildren();
        speaking.clear();
        if (call && call !== name) {
            location.reload(); // another call: its captions have nothing to do with those shown
        }
        call = name;
    });
    on("status", show);
    on("final", addFinal);
    on("interim", showInterim);
}

/** @param {Status} status */
function show({ state, detail }) {
    document.body.dataset["state"] = state;
    const words = WORDS[state] ?? state;
    const text = detail ? `${words}: ${detail}` : words;
    const status = element("status");
    if (status.textContent !== text) {
        status.textContent = text; // said once, not with each repetition
    }
}

/** @param {Final} final */
function addFinal(final) {
    if (last && final.sequence <= last.sequence) {
        return;
    }
    const item = makeItem(final, final.speaker !== last?.speaker);
    last = final;
    finals.append(item);
    while (finals.childElementCount > MAX_LINES) {
        finals.firstElementChild?.remove();
    }
    element("empty").hidden = true;
    arrange();
}

/** @param {Line} line */
function showInterim(line) {
    let item = speaking.get(line.speaker);
    if (!line.text) {
        item?.remove();
        speaking.delete(line.speaker);
    } else if (item) {
        /** @type {HTMLElement} */ (item.querySelector(".text")).textContent = line.text;
    } else {
        item = makeItem(line, true);
        speaking.set(line.speaker, item);
        interims.append(item);
        element("empty").hidden = true;
    }
    arrange();
}

/** Who goes on talking needs no name again: below the own last line, interims stand without. */
function arrange() {
    for (const [speaker, item] of speaking) {
        const isFirst = item === interims.firstElementChild;
        item.classList.toggle("turn", !(isFirst && speaker === last?.speaker));
    }
}

/**
 * @param {Line} line
 * @param {boolean} isTurn
 */
function makeItem({ speaker, name, text, startSeconds }, isTurn) {
    if (!speakers.includes(speaker)) {
        speakers.push(speaker);
    }
    const item = document.createElement("li");
    item.classList.toggle("turn", isTurn);
    item.dataset["speaker"] = String(speakers.indexOf(speaker) % COLOURS);
    const who = document.createElement("p");
    who.className = "who";
    const time = document.createElement("time");
    time.textContent = stamp(startSeconds);
    who.append(name, " ", time);
    const words = document.createElement("p");
    words.className = "text";
    words.textContent = text;
    item.append(who, words);
    return item;
}

/** @param {number} seconds */
function stamp(seconds) {
    const whole = Math.floor(seconds);
    const [minutes, rest] = [Math.floor(whole / 60) % 60, String(whole % 60).padStart(2, "0")];
    const hours = Math.floor(whole / 3600);
    return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

// What the reader does

function toEnd() {
    scroller.scrollTop = scroller.scrollHeight;
}

scroller.addEventListener("scroll", () => {
    const rest = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight;
    newest.hidden = rest < NEAR_END;
});
newest.addEventListener("click", () => {
    toEnd();
    scroller.focus();
});

/** @param {number} index */
function resize(index) {
    const percent = SIZES[Math.min(Math.max(index, 0), SIZES.length - 1)] ?? 100;
    document.documentElement.style.setProperty("--size", `${(1.5 * percent) / 100}rem`);
    element("size").textContent = `${percent} %`;
    /** @type {HTMLButtonElement} */ (element("smaller")).disabled = percent === SIZES[0];
    /** @type {HTMLButtonElement} */ (element("larger")).disabled = percent === SIZES.at(-1);
    localStorage.setItem(SIZE_KEY, String(percent));
    toEnd();
}

function size() {
    const found = SIZES.indexOf(Number(localStorage.getItem(SIZE_KEY) ?? 100));
    return found < 0 ? SIZES.indexOf(100) : found;
}

element("smaller").addEventListener("click", () => resize(size() - 1));
element("larger").addEventListener("click", () => resize(size() + 1));
resize(size());
connect();
