// One turn of the conversation on the page. All text goes in as text nodes, never as HTML.

/** An element with a class and children, which are elements or text. */
export function element(name, className = "", ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/** What somebody said. who: the heading, for those who cannot see sides and colours. */
export class Turn {
  constructor(log, kind, who) {
    this.log = log;
    this.root = element("article", kind, element("h2", "who", who));
    log.append(this.root);
    this.follow(true);
  }

  /** Keep the end in view, unless the reader has scrolled away from it. */
  follow(always = false) {
    const below = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight;
    if (always || below < 120) this.log.scrollTop = this.log.scrollHeight;
  }

  say(text) {
    this.text ??= this.root.appendChild(element("p", "text"));
    this.text.append(text);
    this.follow();
  }

  think(text) {
    if (!this.thought) {
      this.thought = element("p", "text");
      this.thinking = element("details", "thinking", element("summary", "", "Thinking"), this.thought);
      this.thinking.open = true;
      this.root.append(this.thinking);
    }
    this.thought.append(text);
    this.follow();
  }

  /** The thinking is over: fold it away. */
  fold() {
    if (this.thinking) {
      this.thinking.open = false;
      this.thinking.firstChild.textContent = "Thought";
    }
  }

  call({ name, arguments: written }) {
    const shown = element("section", "call", element("h3", "", "Calls ", element("code", "name", name)));
    const values = Object.entries(JSON.parse(written));
    const rows = values.map(([key, value]) => [
      element("dt", "", key),
      element("dd", "", typeof value === "string" ? value : JSON.stringify(value, null, 1)),
    ]);
    shown.append(values.length ? element("dl", "arguments", ...rows.flat()) : element("p", "note", "without arguments"));
    this.root.append(shown);
    this.follow();
  }

  note(text, className = "note") {
    const made = element("p", className, text);
    if (className === "error") made.setAttribute("role", "alert");
    this.root.append(made);
    this.follow();
  }

  remove() {
    this.root.remove();
  }
}
