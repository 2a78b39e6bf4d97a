// The live view of the engine. It listens to /events only while it is unfolded in a page that is seen.

import { events, request } from "/page/api.js";
import { element } from "/page/turn.js";

const NAMES = {
  mixer: "Mixers", router: "Routers", fetch: "Looking up experts", wait: "Waiting for the disk",
  shared: "Shared expert", experts: "Experts", combine: "Summing up", head: "Embedding and head",
  sampling: "Choosing the token", python: "Python",
};
const FADE_MILLISECONDS = 900;
const RECENT_SECONDS = 10;
const AGAIN_MILLISECONDS = 2000;
const still = matchMedia("(prefers-reduced-motion: reduce)");
const dark = matchMedia("(prefers-color-scheme: dark)");
const byId = (id) => document.getElementById(id);

export class Live {
  constructor() {
    this.panel = byId("live");
    this.canvas = byId("experts");
    this.shape = null;
    this.listening = null;
    this.recent = [];
    this.panel.addEventListener("toggle", () => this.listenIfSeen());
    document.addEventListener("visibilitychange", () => this.listenIfSeen());
    dark.addEventListener("change", () => this.draw());
    new ResizeObserver(() => this.fit()).observe(this.panel);
    this.listenIfSeen();
  }

  listenIfSeen() {
    const seen = this.panel.open && !document.hidden;
    if (seen && !this.listening) this.listen((this.listening = new AbortController()));
    if (!seen) {
      this.listening?.abort();
      this.listening = null;
    }
  }

  async listen(abort) {
    while (!abort.signal.aborted) {
      try {
        const response = await request("/events", { signal: abort.signal });
        for await (const { data } of events(response)) {
          if (data?.layers) this.begin(data);
          else if (data) this.show(data);
        }
      } catch {
        if (!abort.signal.aborted) byId("brief").textContent = "no connection";
      }
      await new Promise((done) => setTimeout(done, AGAIN_MILLISECONDS));
    }
  }

  begin(shape) {
    const cells = shape.layers * shape.experts;
    this.shape = shape;
    this.held = new Uint8Array(cells);
    this.usedAt = new Float64Array(cells).fill(-Infinity);
    this.wasRead = new Uint8Array(cells);
    this.fit();
  }

  /** Give the canvas as many pixels as the screen has there, so that cells have sharp edges. */
  fit() {
    const ratio = devicePixelRatio;
    const width = Math.round(this.canvas.clientWidth * ratio);
    if (!this.shape || !width) return;
    this.row = Math.round(Math.max(4 * ratio, Math.min(12 * ratio, width / this.shape.experts)));
    this.canvas.width = width;
    this.canvas.height = this.shape.layers * this.row;
    this.draw();
  }

  show(event) {
    const now = performance.now();
    const [used, read] = [bits(event.used), bits(event.read)];
    this.held = bits(event.held);
    for (let i = 0; i < this.usedAt.length; i++) {
      if (!used[i]) continue;
      this.usedAt[i] = this.lastUse = now;
      this.wasRead[i] = read[i];
    }
    this.figures(event, now);
    if (event.step) this.parts(event.step);
    this.fade();
  }

  figures(event, now) {
    this.recent.push({ now, ...event });
    while (now - this.recent[0].now > RECENT_SECONDS * 1000 && this.recent.length > 2) this.recent.shift();
    const [from] = this.recent;
    const wanted = event.hits + event.misses - from.hits - from.misses;
    const all = event.hits + event.misses;
    const share = (hits, of) => (of ? `${((100 * hits) / of).toFixed(1)} %` : "–");
    const held = this.held.reduce((sum, bit) => sum + bit, 0);
    const rows = {
      "Found in memory, lately": share(event.hits - from.hits, wanted),
      "Found in memory, since the start": share(event.hits, all),
      "Read from disk": bytes(event.bytes_read),
      "Experts in memory": `${held} of ${this.held.length}`,
      "Answers running, waiting": `${event.running}, ${event.waiting}`,
    };
    const entries = Object.entries(rows).map(([name, value]) => element("div", "", element("dt", "", name), element("dd", "", value)));
    byId("figures").replaceChildren(...entries);
    byId("brief").textContent = wanted ? `${share(event.hits - from.hits, wanted)} hits` : "idle";
    this.canvas.setAttribute("aria-label", `Experts by layer: ${held} of ${this.held.length} in memory`);
  }

  parts({ tokens, prompt, seconds }) {
    const total = Object.values(seconds).reduce((sum, part) => sum + part, 0);
    const what = prompt ? `${tokens} prompt tokens` : tokens > 1 ? `the last ${tokens} tokens` : "the last token";
    byId("step").textContent = `Time of ${what}: ${milliseconds(total)}`;
    const shown = Object.entries(seconds);
    byId("bar").replaceChildren(...shown.map(([part, value]) => {
      const piece = element("span", `part-${part}`);
      piece.style.flexGrow = String(value / total);
      return piece;
    }));
    const rows = shown.map(([part, value]) => element(
      "tr", "",
      element("td", "", element("span", `key part-${part}`), NAMES[part]),
      element("td", "number", milliseconds(value)),
      element("td", "number", `${((100 * value) / total).toFixed(0)} %`),
    ));
    byId("parts").tBodies[0].replaceChildren(...rows);
  }

  /** Draw until nothing glows any more. */
  fade() {
    if (this.fading) return;
    const next = () => {
      this.fading = this.draw() && !still.matches ? requestAnimationFrame(next) : 0;
    };
    this.fading = requestAnimationFrame(next);
  }

  /** Whether anything still glows. */
  draw() {
    if (!this.row) return false;
    const style = getComputedStyle(this.panel);
    const colour = (name) => style.getPropertyValue(name);
    const [held, used, read] = ["--held", "--used", "--read"].map(colour);
    const context = this.canvas.getContext("2d");
    const { row, shape } = this;
    const { width, height } = this.canvas;
    const gap = width / shape.experts > 3 ? 1 : 0;
    const now = performance.now();
    let glows = false;
    context.clearRect(0, 0, width, height);
    for (let i = 0; i < this.usedAt.length; i++) {
      const glow = still.matches && this.usedAt[i] === this.lastUse ? 1 : 1 - (now - this.usedAt[i]) / FADE_MILLISECONDS;
      if (!this.held[i] && glow <= 0) continue;
      const column = i % shape.experts;
      const x = Math.floor((column * width) / shape.experts);
      const next = Math.floor(((column + 1) * width) / shape.experts);
      const cell = [x, Math.floor(i / shape.experts) * row, Math.max(1, next - x - gap), row - 1];
      if (this.held[i]) {
        context.fillStyle = held;
        context.fillRect(...cell);
      }
      if (glow <= 0) continue;
      glows = true;
      context.globalAlpha = still.matches ? 1 : glow;
      context.fillStyle = this.wasRead[i] ? read : used;
      context.fillRect(...cell);
      context.globalAlpha = 1;
    }
    return glows;
  }
}

/** From base64, the first in the highest bit: 0 or 1 each. */
function bits(text) {
  const packed = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const unpacked = new Uint8Array(packed.length * 8);
  for (let i = 0; i < unpacked.length; i++) unpacked[i] = (packed[i >> 3] >> (7 - (i & 7))) & 1;
  return unpacked;
}

function milliseconds(seconds) {
  const value = seconds * 1000;
  return `${value >= 100 ? value.toFixed(0) : value >= 1 ? value.toFixed(1) : value.toFixed(2)} ms`;
}

function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const step = count ? Math.min(units.length - 1, Math.floor(Math.log10(count) / 3)) : 0;
  return `${(count / 1000 ** step).toFixed(step ? 1 : 0)} ${units[step]}`;
}
