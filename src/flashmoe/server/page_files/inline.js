// The inside of a line of Markdown as nodes: only the elements named here are made, of text nodes, and links lead to the
// web alone. The time is linear in the text.

import { element } from "/page/dom.js";

const DEEPEST = 6;
const LONGEST_LABEL = 500;
const ADDRESS = /\(\s{0,9}<?([^\s<>()]*(?:\([^\s<>()]*\)[^\s<>()]*)?)>?(?:\s+["'][^\n]{0,200}?["'])?\s{0,9}\)/y;
const MARK = /\\([!-/:-@[-`{-~])|`+|\*\*|__|~~|[*_]|!?\[|https?:\/\/[^\s<>()[\]"'`*]+/g;
const EMPHASIS = { "**": "strong", __: "strong", "~~": "del", "*": "em", _: "em" };

/** The nodes of a text: links, code, emphasis and text. */
export function inline(text, depth = 0) {
  const made = [];
  const unclosed = new Set(); // marks that nothing closes any more
  const brackets = new Brackets(text);
  let plain = 0; // where the text begins that is no element yet
  let i = 0;
  const flush = (end) => plain < end && made.push(text.slice(plain, end));
  for (;;) {
    MARK.lastIndex = i;
    const found = MARK.exec(text);
    if (!found) break;
    const [mark, escaped] = found;
    const begin = found.index;
    i = begin + mark.length;
    if (escaped) {
      flush(begin);
      plain = begin + 1;
      continue;
    }
    if (unclosed.has(mark)) continue;
    const [node, end] = special(text, i, mark, depth, brackets) ?? [];
    if (node) {
      flush(begin);
      made.push(node);
      plain = i = end;
    } else if (mark in EMPHASIS && opens(text, i, mark)) unclosed.add(mark);
  }
  flush(text.length);
  return made;
}

/** The element that a mark before place i begins, and where it ends; null if it is text. */
function special(text, i, mark, depth, brackets) {
  if (mark[0] === "`") return span(text, i, mark);
  if (depth >= DEEPEST) return null;
  if (mark in EMPHASIS) return emphasis(text, i, mark, depth);
  if (mark.startsWith("http")) {
    const address = mark.replace(/(?<![.,;:!?])[.,;:!?]+$/, "");
    return isOfTheWeb(address) ? [link(address, [address]), i - mark.length + address.length] : null;
  }
  const { close, address, end } = brackets.after(i) ?? {};
  return end ? [link(address, close > i ? inline(text.slice(i, close), DEEPEST) : [address]), end] : null;
}

/** The ends of links' labels, and the addresses after them: asked for from left to right, so that each is looked at once. */
class Brackets {
  constructor(text) {
    this.text = text;
    this.close = this.newline = -1;
  }

  /** What comes after a label that begins at i; null if it is none. */
  after(i) {
    if (this.newline < i) this.newline = this.next("\n", i);
    if (this.close < i) {
      this.close = this.next("]", i);
      ADDRESS.lastIndex = this.close + 1;
      const [whole, address] = ADDRESS.exec(this.text) ?? [];
      this.found = whole && isOfTheWeb(address) ? { close: this.close, address, end: this.close + 1 + whole.length } : null;
    }
    return this.close < this.newline && this.close - i <= LONGEST_LABEL ? this.found : null;
  }

  next(character, i) {
    const found = this.text.indexOf(character, i);
    return found < 0 ? this.text.length : found;
  }
}

function span(text, i, mark) {
  const close = text.indexOf(mark, i);
  if (close < 0 || text[close + mark.length] === "`") return null;
  return [element("code", "", text.slice(i, close).replace(/^ (.*) $/s, "$1")), close + mark.length];
}

function opens(text, i, mark) {
  return /\S/.test(text[i] ?? " ") && !(mark[0] === "_" && isWord(text[i - mark.length - 1]));
}

function emphasis(text, i, mark, depth) {
  if (!opens(text, i, mark)) return null;
  const size = mark.length;
  for (let close = text.indexOf(mark, i + 1); close >= 0; close = text.indexOf(mark, close + size)) {
    const longer = text[close + size] === mark[0];
    if (longer && size === 1) close++; // two of them close something else
    else {
      if (longer) close++; // of three, the first one closes what is inside
      const closes = /\S/.test(text[close - 1]) && !(mark[0] === "_" && isWord(text[close + size]));
      if (closes) return [element(EMPHASIS[mark], "", ...inline(text.slice(i, close), depth + 1)), close + size];
    }
  }
  return null;
}

function isWord(character) {
  return /[\p{L}\p{N}]/u.test(character ?? " ");
}

function isOfTheWeb(address) {
  return /^(https?:\/\/|mailto:)/i.test(address) && URL.canParse(address);
}

/** A link, which says where it leads. */
function link(address, label) {
  const made = element("a", "", ...label);
  made.href = made.title = address;
  made.target = "_blank";
  made.rel = "noopener noreferrer";
  return made;
}
