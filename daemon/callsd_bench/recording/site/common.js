// SPDX-License-Identifier: Apache-2.0
// What both test pages have: the hooks of a call, and what a recording of them is measured by.
//
// ?beeps=0     no beeps          ?ready=S  the call is connected S seconds later
// ?strip=0     no strip, no flash   ?end=S    the call closes by itself after S seconds
// ?call=1      the page server's call is played: its voices, names and turns. Then neither strip
//              nor beeps, unless ?strip=1 or ?beeps=1 says so.
"use strict";

const query = new URLSearchParams(location.search);
const hasCall = query.get("call") === "1";
const isOn = (name) => (query.get(name) ?? (hasCall ? "0" : "1")) !== "0";

// measure.py knows these as well.
const BLOCK = 16; // a macroblock of H.264: no block shares its quantiser with a neighbour
const BITS = 24;
const BLOCKS = BITS + 5; // white, black, bits, parity, black, white
const FLASH = 96;
const PERIOD_SECONDS = 2.01; // five in turn fall anywhere between two frames, of page or film
const FLASH_SECONDS = 0.1;
const BEEP_SECONDS = 0.08;
const BEEP_HZ = 1000;

// --- the hooks that a recorder looks for ---

window.callsClient = {
  connected: false,
  closed: false,
  disconnect() {
    this.connected = false;
    this.closed = true;
    for (const media of document.querySelectorAll("audio, video")) media.pause();
    return Promise.resolve();
  },
};

const wait = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));

// A page calls this once, with a promise of all it needs.
async function connect(prepared) {
  await Promise.all([prepared, wait(Number(query.get("ready") ?? 0))]);
  window.callsClient.connected = true;
  if (query.has("end")) {
    await wait(Number(query.get("end")));
    await window.callsClient.disconnect();
  }
}

// --- the picture of the counter: a Gray code, so that one painting differs in one bit ---

function startStrip() {
  const strip = document.createElement("canvas");
  strip.width = BLOCKS * BLOCK;
  strip.height = BLOCK;
  strip.style.cssText = "position:fixed;left:0;top:0;z-index:9";
  const flash = document.createElement("div");
  flash.style.cssText =
    `position:fixed;left:0;top:${BLOCK}px;width:${FLASH}px;height:${FLASH}px;z-index:9`;
  document.body.append(strip, flash);

  const brush = strip.getContext("2d", { alpha: false });
  let count = 0;
  let isWhite = false;
  const paint = (frameTime) => {
    count = (count + 1) % 2 ** BITS;
    const gray = count ^ (count >> 1);
    brush.fillStyle = "#000";
    brush.fillRect(0, 0, strip.width, BLOCK);
    brush.fillStyle = "#fff";
    const white = (block) => brush.fillRect(block * BLOCK, 0, BLOCK, BLOCK);
    white(0);
    white(BLOCKS - 1);
    let ones = 0;
    for (let bit = 0; bit < BITS; bit++) {
      if ((gray >> (BITS - 1 - bit)) & 1) {
        white(2 + bit);
        ones++;
      }
    }
    if (ones % 2) white(2 + BITS);

    // Shown by the first frame that begins at or after its moment, as a frame of a video would be.
    const seconds = frameTime / 1000;
    const sinceFlash = seconds % PERIOD_SECONDS;
    const shall = seconds >= PERIOD_SECONDS && sinceFlash < FLASH_SECONDS;
    if (shall !== isWhite) {
      isWhite = shall;
      flash.style.background = shall ? "#fff" : "none";
    }
    requestAnimationFrame(paint);
  };
  requestAnimationFrame(paint);
}

// --- beeps: each is due at the very moment of a flash ---

// Neither is moved to make up for the way to the eye or to the ear: nobody does so for the voices
// of a call, so a recorder that makes one of the ways longer shall be seen to. Measured, from the
// moment to the display and to the monitor of PulseAudio's null sink (Chromium 156):
//   flash 25 ms at 60 Hz, 71 ms at 21 Hz    beep 46 ms, 153 ms with --audio-buffer-size=2048
// So at an ordinary display the beep is some 20 ms late, which is what somebody in the call has.
//
// `currentTime` goes in steps, up to the length of a buffer; the median of many looks is the moment
// in the middle of a step.
function startBeeps() {
  const sound = new AudioContext({ latencyHint: "interactive", sampleRate: 48000 });
  const beep = sound.createBuffer(1, BEEP_SECONDS * sound.sampleRate, sound.sampleRate);
  const samples = beep.getChannelData(0);
  for (let i = 0; i < samples.length; i++) {
    samples[i] = 0.5 * Math.sin((2 * Math.PI * BEEP_HZ * i) / sound.sampleRate);
  }
  const offsets = [];
  let nextSeconds = 2 * PERIOD_SECONDS;
  setInterval(() => {
    if (sound.state !== "running") return;
    const nowSeconds = performance.now() / 1000;
    offsets.push(sound.currentTime - nowSeconds);
    if (offsets.length > 201) offsets.shift();
    while (nextSeconds < nowSeconds + 0.15) nextSeconds += PERIOD_SECONDS;
    if (nextSeconds - nowSeconds > 0.3 || offsets.length < 41) return;
    const offset = [...offsets].sort((a, b) => a - b)[offsets.length >> 1];
    const source = sound.createBufferSource();
    source.buffer = beep;
    source.connect(sound.destination);
    source.start(nextSeconds + offset);
    nextSeconds += PERIOD_SECONDS;
  }, 23); // no divisor of a buffer's length: all parts of a step are seen
}

// --- a call that is played ---

// Resolves to { speakers: names, speaking: () => Set of names of those who speak now }.
async function playCall() {
  const { speakers, turns } = await (await fetch("/call/turns.json")).json();
  const voices = speakers.map((name) => new Audio(`/call/${encodeURIComponent(name)}`));
  document.body.append(...voices);
  await Promise.all(
    voices.map(
      (voice) =>
        new Promise((done, fail) => {
          voice.addEventListener("canplaythrough", done, { once: true });
          voice.addEventListener("error", () => fail(voice.error), { once: true });
          voice.load();
        }),
    ),
  );
  await Promise.all(voices.map((voice) => voice.play()));
  const speaking = () => {
    const now = Math.max(...voices.map((voice) => voice.currentTime));
    return new Set(turns.filter((t) => t.start <= now && now < t.end).map((t) => t.speaker));
  };
  return { speakers, speaking };
}

// --- the footer of a recorded call ---

function startFooter(participants) {
  const footer = document.createElement("footer");
  const clock = document.createElement("span");
  const count = document.createElement("span");
  count.textContent = `• ${participants} participants`;
  footer.append(clock, count);
  document.body.append(footer);
  const tell = () => {
    clock.textContent = new Date().toLocaleString("en-GB", {
      dateStyle: "long",
      timeStyle: "medium",
    });
  };
  tell();
  setInterval(tell, 1000);
}

if (isOn("strip")) startStrip();
if (isOn("beeps")) startBeeps();
