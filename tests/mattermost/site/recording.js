// SPDX-License-Identifier: Apache-2.0
// The hooks of the recording page, its way into the call, and what a recording is measured by.
"use strict";

const PLUGIN = "/plugins/com.mattermost.calls";
const PREFIX = "custom_com.mattermost.calls_";
const PERIOD_SECONDS = 2.01; // five in turn fall anywhere between two frames, of page or film
const FLASH_SECONDS = 0.1;
const BEEP_SECONDS = 0.08;
const BEEP_HZ = 1000;
const CAPTION_SECONDS = 5;
const RETRY_SECONDS = 1;
const GIVE_UP_SECONDS = 30;

const query = new URLSearchParams(location.search);
const callID = query.get("call_id");
const jobID = query.get("job_id");

function readToken() {
  const payload = location.hash.slice(1).replaceAll("-", "+").replaceAll("_", "/");
  return JSON.parse(atob(payload)).token;
}

async function get(path, token) {
  const answer = await fetch(PLUGIN + path, { headers: { Authorization: `Bearer ${token}` } });
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

// --- the client of the call ---

class CallsClient {
  constructor(token) {
    this.connected = false;
    this.closed = false;
    this.token = token;
    this.originalConnID = "";
    this.connID = "";
    this.lostAt = 0;
    this.open();
  }

  open() {
    this.seq = 1;
    this.socket = new WebSocket(`${location.origin.replace(/^http/, "ws")}/api/v4/websocket`);
    this.socket.onopen = () => this.send("authentication_challenge", { token: this.token });
    this.socket.onmessage = (message) => this.receive(JSON.parse(message.data));
    this.socket.onclose = () => this.lose();
  }

  // The media of a real page go on meanwhile, so it stays connected.
  lose() {
    if (this.closed) return;
    this.lostAt ||= performance.now();
    console.error("websocket closed");
    if (performance.now() - this.lostAt < GIVE_UP_SECONDS * 1000) {
      setTimeout(() => !this.closed && this.open(), RETRY_SECONDS * 1000);
    } else {
      this.disconnect();
    }
  }

  begin(connID) {
    this.lostAt = 0;
    const prevConnID = this.connID;
    this.connID = connID;
    if (this.connected) {
      const { originalConnID } = this;
      this.send(`${PREFIX}reconnect`, { channelID: callID, originalConnID, prevConnID });
    } else {
      this.originalConnID = connID;
      this.send(`${PREFIX}join`, { channelID: callID, jobID, av1Support: false });
    }
  }

  send(action, data) {
    this.socket.send(JSON.stringify({ action, seq: this.seq++, data }));
  }

  receive({ event, data }) {
    switch (event) {
      case "hello":
        this.begin(data.connection_id);
        break;
      case `${PREFIX}join`:
        // Stands for the media that a real page connects next.
        if (data.connID === this.connID) {
          this.connected = true;
          play();
        }
        break;
      case `${PREFIX}error`:
        console.error("join failed", data.data);
        this.disconnect();
        break;
      case `${PREFIX}caption`:
        if (data.channel_id === callID) showCaption(data, this.token);
        break;
      case `${PREFIX}job_stop`:
        if (data.job_id === jobID) this.disconnect();
        break;
      case `${PREFIX}call_end`:
        if (data.channelID === callID) this.disconnect();
        break;
    }
  }

  disconnect() {
    if (this.closed) return;
    this.closed = true;
    this.connected = false;
    if (this.socket.readyState === WebSocket.OPEN) this.send(`${PREFIX}leave`, null);
    this.socket.close();
    for (const media of document.querySelectorAll("audio")) media.pause();
    delete window.callsClient;
  }
}

// --- what is seen and heard ---

// Flashes and beeps are at whole periods of Unix time: a recording tells by them when it began.
const unixSeconds = (milliseconds) => (performance.timeOrigin + milliseconds) / 1000;

let isPlaying = false;

function play() {
  isPlaying = true;
  const { sample } = document.documentElement.dataset;
  if (sample) {
    const audio = document.createElement("audio");
    audio.autoplay = true;
    audio.src = sample;
    document.body.append(audio);
  }
  startBeeps();
}

// As in the clients of a call: each speaker's newest caption, for five seconds.
const captions = new Map();

function showCaption({ session_id: sessionID, text }, token) {
  let caption = captions.get(sessionID);
  if (!caption) {
    caption = { line: document.createElement("p"), name: "…", text, timer: 0 };
    captions.set(sessionID, caption);
    get(`/bot/calls/${callID}/sessions/${sessionID}/profile`, token)
      .then((user) => {
        caption.name = `${user.first_name} ${user.last_name}`.trim() || user.username;
        caption.line.textContent = `${caption.name}: ${caption.text}`;
      })
      .catch((error) => console.warn(String(error)));
  }
  caption.text = text;
  caption.line.textContent = `${caption.name}: ${text}`;
  document.querySelector("#captions").append(caption.line);
  clearTimeout(caption.timer);
  caption.timer = setTimeout(() => caption.line.remove(), CAPTION_SECONDS * 1000);
}

function startPicture() {
  const flash = document.querySelector("#flash");
  const mover = document.querySelector("#mover");
  const footer = document.querySelector("footer");
  const paint = (frameTime) => {
    const seconds = unixSeconds(frameTime);
    const isWhite = isPlaying && seconds % PERIOD_SECONDS < FLASH_SECONDS;
    flash.style.background = isWhite ? "#fff" : "none";
    mover.style.left = `${((seconds * 7) % 95).toFixed(2)}%`;
    footer.textContent = new Date().toLocaleString("en-GB");
    requestAnimationFrame(paint);
  };
  requestAnimationFrame(paint);
}

// A beep is due at the very moment of a flash. The sound's clock goes in steps, so the median of
// many looks at both clocks says how far apart they are.
function startBeeps() {
  const sound = new AudioContext({ latencyHint: "interactive", sampleRate: 48000 });
  const beep = sound.createBuffer(1, BEEP_SECONDS * sound.sampleRate, sound.sampleRate);
  const samples = beep.getChannelData(0);
  for (let i = 0; i < samples.length; i++) {
    samples[i] = 0.5 * Math.sin((2 * Math.PI * BEEP_HZ * i) / sound.sampleRate);
  }
  const offsets = [];
  let nextSeconds = 0;
  const timer = setInterval(() => {
    if (!window.callsClient) {
      clearInterval(timer);
      sound.close();
      return;
    }
    if (sound.state !== "running") return;
    const nowSeconds = unixSeconds(performance.now());
    offsets.push(sound.currentTime - nowSeconds);
    if (offsets.length > 201) offsets.shift();
    if (nextSeconds < nowSeconds + 0.15) {
      nextSeconds = Math.ceil((nowSeconds + 0.15) / PERIOD_SECONDS) * PERIOD_SECONDS;
    }
    if (nextSeconds - nowSeconds > 0.3 || offsets.length < 41) return;
    const offset = [...offsets].sort((a, b) => a - b)[offsets.length >> 1];
    const source = sound.createBufferSource();
    source.buffer = beep;
    source.connect(sound.destination);
    source.start(nextSeconds + offset);
    nextSeconds += PERIOD_SECONDS;
  }, 23);
}

async function start() {
  startPicture();
  const token = readToken();
  const channel = await get(`/bot/channels/${callID}`, token);
  document.querySelector("main").textContent = channel.display_name;
  await get("/config", token);
  await get("/version", token);
  await get(`/calls/${callID}/active`, token);
  // Three of these count against the limit of the bot, as they do of a real page.
  await get("/turn-credentials", token).catch((error) => console.warn(String(error)));
  // The real page tells its token to whoever reads the console.
  const config = { channelID: callID, jobID, authToken: token, simulcast: false };
  console.log("creating new calls client", JSON.stringify(config));
  window.callsClient = new CallsClient(token);
}

start().catch((error) => console.error("failed to start", String(error)));
