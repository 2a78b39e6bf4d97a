// The list of turns: its end stays in view while something is added, until the reader scrolls away from it.

const AT_END_PIXELS = 4;
const NEAR_PIXELS = 150;

export class Log {
  constructor(root) {
    this.root = root;
    this.following = true;
    this.top = 0;
    root.addEventListener("scroll", () => this.scrolled());
    new ResizeObserver(() => this.follow()).observe(root);
  }

  /** A new turn; the view goes there. */
  append(turn) {
    this.root.append(turn);
    this.following = true;
    this.follow();
  }

  clear() {
    this.root.querySelectorAll("article").forEach((turn) => turn.remove());
  }

  /** Show the end, once a frame and after what the reader did in it. */
  follow() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      if (this.following) this.root.scrollTop = this.root.scrollHeight;
    });
  }

  scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.root;
    const below = scrollHeight - scrollTop - clientHeight;
    const upwards = scrollTop < this.top;
    if (below < (upwards ? AT_END_PIXELS : NEAR_PIXELS)) this.following = true;
    else if (upwards) this.following = false;
    this.top = scrollTop;
  }
}
