// One turn of the conversation on the page.

import { copyButton, element } from "/page/dom.js";
import { Markdown } from "/page/markdown.js";

/** What somebody said. log: a Log. who: the heading, for those who cannot see sides and colours. */
export class Turn {
  constructor(log, kind, who) {
    this.log = log;
    this.content = "";
    const head = element("header", "", element("h2", "who", who));
    if (kind === "assistant") head.append(copyButton(() => this.content.trim(), "the answer"));
    this.root = element("article", kind, head);
    log.append(this.root);
  }

  /** What a person or a tool said, as it is. */
  say(text) {
    this.root.append(element("p", "text", text));
    this.log.follow();
  }

  /** A piece of the model's answer, in Markdown. */
  answer(text) {
    this.endCall();
    this.content += text;
    this.markdown ??= new Markdown(this.root.appendChild(element("div", "text markdown")));
    this.markdown.append(text);
    this.log.follow();
  }

  think(text) {
    if (!this.thought) {
      this.thought = element("p", "text");
      this.thinking = element("details", "thinking", element("summary", "", "Thinking"), this.thought);
      this.thinking.open = true;
      this.root.append(this.thinking);
    }
    this.thought.append(text);
    this.log.follow();
  }

  /** The thinking is over: fold it away. */
  fold() {
    if (!this.thinking || this.folded) return;
    this.folded = true; // who opens it again keeps it open
    this.thinking.open = false;
    this.thinking.firstChild.textContent = "Thought";
  }

  /** A call of a tool, whose arguments are shown as the model writes them until it ends. */
  beginCall(name) {
    this.endCall();
    this.written = element("pre", "written");
    this.called = element("section", "call", element("h3", "", "Calls ", element("code", "name", name)), this.written);
    this.root.append(this.called);
    this.markdown = null; // what is said after the call stands below it
    this.log.follow();
  }

  /** A piece of the arguments' JSON. */
  writeCall(piece) {
    this.written.append(piece);
    this.log.follow();
  }

  /** Show what the call's arguments are, if one is written and did not break off. */
  endCall() {
    const values = this.written && parsed(this.written.textContent);
    if (values) {
      const rows = Object.entries(values).map(([key, value]) => [
        element("dt", "", key),
        element("dd", "", typeof value === "string" ? value : JSON.stringify(value, null, 1)),
      ]);
      this.written.replaceWith(rows.length ? element("dl", "arguments", ...rows.flat()) : element("p", "note", "without arguments"));
    } else if (this.written) {
      this.called.append(element("p", "note", "The call broke off."));
    }
    this.written = null;
    this.log.follow();
  }

  note(text, className = "note") {
    const made = element("p", className, text);
    if (className === "error") made.setAttribute("role", "alert");
    this.root.append(made);
    this.log.follow();
  }

  /** A form for what the turn's calls gave, in place of the model's next words. */
  ask(form) {
    this.root.append(form);
    this.log.follow();
  }
}

/** The value that a text says in JSON; null if it is none. */
export function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
