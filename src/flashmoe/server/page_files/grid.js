// The experts as a picture: a layer below the other, each an expert a cell, in several lines where one is too narrow.
//
// What is in memory is painted once, when it changes; a frame paints what glows on top of that.

const FADE_MILLISECONDS = 900;
const [LEAST_PIXELS, MOST_PIXELS, BETWEEN_LAYERS] = [2, 12, 2];
const still = matchMedia("(prefers-reduced-motion: reduce)");
const dark = matchMedia("(prefers-color-scheme: dark)");

export class Grid {
  constructor(canvas) {
    this.canvas = canvas;
    this.base = document.createElement("canvas");
    dark.addEventListener("change", () => this.repaint());
    new ResizeObserver(() => this.fit()).observe(canvas.parentElement);
  }

  begin({ layers, experts }) {
    [this.layers, this.experts] = [layers, experts];
    this.held = new Uint8Array(layers * experts);
    this.glowing = new Map(); // cell to when it was used and whether it was read for that
    this.fit();
  }

  /** Bits by layer and expert; gives how many are in memory. */
  show(used, read, held) {
    const now = performance.now();
    if (still.matches) this.glowing.clear(); // nothing fades: what the last step used is marked until the next
    let count = 0;
    for (let i = 0; i < this.held.length; i++) {
      count += held[i];
      if (used[i]) this.glowing.set(i, { at: now, read: read[i] });
      if (held[i] === this.held[i]) continue;
      this.held[i] = held[i];
      this.paintBase(i);
    }
    this.canvas.setAttribute("aria-label", `Experts by layer: ${count} of ${this.held.length} in memory`);
    this.animate();
    return count;
  }

  /** Give the canvas as many pixels as the screen has there, so that cells have sharp edges. */
  fit() {
    const ratio = devicePixelRatio;
    const width = Math.round(this.canvas.clientWidth * ratio);
    if (!this.held || !width) return;
    const lines = Math.ceil((this.experts * LEAST_PIXELS * ratio) / width);
    this.columns = Math.ceil(this.experts / lines);
    this.cell = width / this.columns;
    this.line = Math.max(1, Math.round(Math.min(Math.max(this.cell, (lines > 1 ? LEAST_PIXELS : 4) * ratio), MOST_PIXELS * ratio)));
    this.layer = lines * this.line + (lines > 1 ? Math.round(BETWEEN_LAYERS * ratio) : 0);
    for (const canvas of [this.canvas, this.base]) [canvas.width, canvas.height] = [width, this.layers * this.layer];
    this.repaint();
  }

  repaint() {
    if (!this.layer) return;
    const style = getComputedStyle(this.canvas);
    [this.heldColour, this.usedColour, this.readColour] = ["--held", "--used", "--read"].map((name) => style.getPropertyValue(name));
    this.base.getContext("2d").clearRect(0, 0, this.base.width, this.base.height);
    this.held.forEach((bit, i) => bit && this.paintBase(i));
    this.draw();
  }

  /** x, y, width and height of a cell; cells wide enough have gaps. */
  place(i) {
    const expert = i % this.experts;
    const column = expert % this.columns;
    const x = Math.floor(column * this.cell);
    const next = Math.floor((column + 1) * this.cell);
    const gap = this.cell > 3 ? 1 : 0;
    const y = Math.floor(i / this.experts) * this.layer + Math.floor(expert / this.columns) * this.line;
    return [x, y, Math.max(1, next - x - gap), Math.max(1, this.line - gap)];
  }

  paintBase(i) {
    if (!this.layer) return;
    const context = this.base.getContext("2d");
    context.fillStyle = this.heldColour;
    context[this.held[i] ? "fillRect" : "clearRect"](...this.place(i));
  }

  /** Draw until nothing glows any more. */
  animate() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.draw();
      if (this.glowing.size && !still.matches) this.animate();
    });
  }

  draw() {
    if (!this.layer) return;
    const context = this.canvas.getContext("2d");
    const now = performance.now();
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.drawImage(this.base, 0, 0);
    for (const [i, { at, read }] of this.glowing) {
      const glow = still.matches ? 1 : 1 - (now - at) / FADE_MILLISECONDS;
      if (glow <= 0) {
        this.glowing.delete(i);
        continue;
      }
      context.globalAlpha = glow;
      context.fillStyle = read ? this.readColour : this.usedColour;
      context.fillRect(...this.place(i));
    }
    context.globalAlpha = 1;
  }
}
