// The live view of the engine. It listens to /events only while it is unfolded in a page that is seen.

import { events, request } from "/page/api.js";
import { element } from "/page/dom.js";
import { Grid } from "/page/grid.js";

const NAMES = {
  mixer: "Mixers", router: "Routers", fetch: "Looking up experts", wait: "Waiting for the disk",
  shared: "Shared expert", experts: "Experts", combine: "Summing up", head: "Embedding and head",
  sampling: "Choosing the token", python: "Python",
};
const RECENT_SECONDS = 10;
const AGAIN_MILLISECONDS = 2000;
const byId = (id) => document.getElementById(id);

export class Live {
  constructor() {
    this.panel = byId("live");
    this.grid = new Grid(byId("experts"));
    this.listening = null;
    this.recent = [];
    this.panel.addEventListener("toggle", () => this.listenIfSeen());
    document.addEventListener("visibilitychange", () => this.listenIfSeen());
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
    this.experts = shape.layers * shape.experts;
    this.recent = [];
    this.grid.begin(shape);
  }

  show(event) {
    this.held = this.grid.show(bits(event.used), bits(event.read), bits(event.held));
    this.figures(event, performance.now());
    if (event.step) this.parts(event.step);
  }

  figures(event, now) {
    this.recent.push({ now, ...event });
    while (now - this.recent[0].now > RECENT_SECONDS * 1000 && this.recent.length > 2) this.recent.shift();
    const [from] = this.recent;
    const wanted = event.hits + event.misses - from.hits - from.misses;
    const all = event.hits + event.misses;
    const share = (hits, of) => (of ? `${((100 * hits) / of).toFixed(1)} %` : "–");
    const rows = {
      "Found in memory, lately": share(event.hits - from.hits, wanted),
      "Found in memory, since the start": share(event.hits, all),
      "Read from disk": bytes(event.bytes_read),
      "Experts in memory": `${this.held} of ${this.experts}`,
      "Answers running, waiting": `${event.running}, ${event.waiting}`,
    };
    const entries = Object.entries(rows).map(([name, value]) => element("div", "", element("dt", "", name), element("dd", "", value)));
    byId("figures").replaceChildren(...entries);
    byId("brief").textContent = wanted ? `${share(event.hits - from.hits, wanted)} hits` : "idle";
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
