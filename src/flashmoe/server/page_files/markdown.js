// Markdown as elements. What a model writes is not trusted: only the elements named here are made, of text nodes, and
// links lead to the web alone. What is no Markdown that is known here stays the text it is.

import { copyButton, element } from "/page/dom.js";

const DEEPEST = 6;
const FENCE = /^ *(`{3,}(?!.*`)|~{3,})\s*(\S*)/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*)$/;
const RULE = /^ {0,3}(?:(?:\*\s*){3,}|(?:-\s*){3,}|(?:_\s*){3,})$/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?: +(.*)|)$/;
const QUOTE = /^ {0,3}> ?/;
const TABLE_RULE = /^ *\|?(?: *:?-+:? *\|)+(?: *:?-+:? *)?$/;
const LINK = /^([^\]\n]{0,500})\]\(\s{0,9}<?([^\s<>()]*(?:\([^\s<>()]*\)[^\s<>()]*)?)>?(?:\s+["'][^\n]{0,200}?["'])?\s{0,9}\)/;
const MARK = /\\([!-/:-@[-`{-~])|`+|\*\*|__|~~|[*_]|!?\[|https?:\/\/[^\s<>()[\]"'`*]+/g;
const EMPHASIS = { "**": "strong", __: "strong", "~~": "del", "*": "em", _: "em" };

/** Text that comes in pieces, drawn block by block: only the block that is not whole yet is drawn anew. */
export class Markdown {
  constructor(root) {
    this.root = root;
    this.text = "";
    this.drawn = 0; // characters in blocks that are whole
    this.tail = [];
  }

  append(text) {
    this.text += text;
    this.tail.forEach((block) => block.remove());
    for (const size of wholeBlocks(this.text.slice(this.drawn))) {
      this.root.append(...blocks(this.text.slice(this.drawn, this.drawn + size)));
      this.drawn += size;
    }
    this.tail = blocks(this.text.slice(this.drawn));
    this.root.append(...this.tail);
  }
}

/** The sizes of the blocks that are whole: each ends with a blank line outside a code fence. */
function wholeBlocks(text) {
  const sizes = [];
  let size = 0;
  let fence = "";
  for (const line of text.split(/(?<=\n)/)) {
    size += line.length;
    fence = fenceAfter(line.replace(/^ *(?:[-*+]|\d{1,9}[.)]) +/, ""), fence);
    if (fence || line.trim() || !line.endsWith("\n")) continue;
    sizes.push(size);
    size = 0;
  }
  return sizes;
}

/** The fence that is open after a line, if `fence` was open before it. */
function fenceAfter(line, fence) {
  const [, mark, information] = FENCE.exec(line) ?? [];
  if (!mark) return fence;
  if (!fence) return mark;
  return mark.startsWith(fence) && !information ? "" : fence;
}

function blocks(text, depth = 0) {
  const lines = text.split("\n");
  const made = [];
  for (let i = 0; i < lines.length; ) {
    if (!lines[i].trim()) {
      i++;
      continue;
    }
    const [block, next] = blockAt(lines, i, depth);
    if (lines[i].startsWith("  ")) block.classList.add("inner"); // of a list that a blank line ended
    made.push(block);
    i = next;
  }
  return made;
}

/** The block that begins at line i, and the line after it. */
function blockAt(lines, i, depth) {
  const line = lines[i];
  if (FENCE.test(line)) return code(lines, i);
  const [, hashes, title] = HEADING.exec(line) ?? [];
  if (hashes) return [element(`h${Math.min(6, hashes.length + 2)}`, "", ...inline(title.trim().replace(/ #+$/, ""))), i + 1];
  if (RULE.test(line)) return [element("hr"), i + 1];
  if (depth < DEEPEST && QUOTE.test(line)) return quote(lines, i, depth);
  if (depth < DEEPEST && ITEM.test(line)) return list(lines, i, depth);
  if (isTable(lines, i)) return table(lines, i);
  let end = i + 1;
  while (end < lines.length && lines[end].trim() && !interrupts(lines, end, depth)) end++;
  const text = lines.slice(i, end).map((part) => part.trim());
  return [element("p", "", ...inline(text.join("\n"))), end];
}

function interrupts(lines, i, depth) {
  const line = lines[i];
  const nests = depth < DEEPEST && (QUOTE.test(line) || ITEM.test(line));
  return nests || FENCE.test(line) || HEADING.test(line) || RULE.test(line) || isTable(lines, i);
}

function code(lines, i) {
  const [opening, fence, language] = FENCE.exec(lines[i]);
  const margin = opening.search(/\S/);
  const inside = [];
  let open = fence;
  for (i++; i < lines.length && (open = fenceAfter(lines[i], open)); i++) inside.push(withoutMargin(lines[i], margin));
  const text = inside.join("\n");
  const head = element("figcaption", "", element("span", "", language), copyButton(() => text, "the code"));
  const body = element("pre", "", element("code", "", text));
  body.tabIndex = 0; // so that the keyboard can scroll it
  return [element("figure", "code", head, body), i + 1];
}

function withoutMargin(line, margin) {
  const own = line.search(/\S/);
  return line.slice(own < 0 ? margin : Math.min(margin, own));
}

function quote(lines, i, depth) {
  const inside = [];
  for (; i < lines.length && QUOTE.test(lines[i]); i++) inside.push(lines[i].replace(QUOTE, ""));
  return [element("blockquote", "", ...blocks(inside.join("\n"), depth + 1)), i];
}

function list(lines, i, depth) {
  const [, margin, first] = ITEM.exec(lines[i]);
  const ordered = /\d/.test(first);
  const made = element(ordered ? "ol" : "ul");
  if (ordered) made.start = parseInt(first);
  for (;;) {
    const [, own, mark, text] = (i < lines.length && ITEM.exec(lines[i])) || [];
    if (!mark || own.length > margin.length + 1 || /\d/.test(mark) !== ordered) return [made, i];
    const inside = [text ?? ""];
    let open = fenceAfter(inside[0], "");
    for (i++; i < lines.length && (open || belongs(lines[i], own.length)); i++) {
      inside.push(withoutMargin(lines[i], own.length + mark.length + 1));
      open = fenceAfter(lines[i], open);
    }
    const parts = blocks(inside.join("\n"), depth + 1);
    if (parts[0]?.tagName === "P") parts.splice(0, 1, ...parts[0].childNodes);
    made.append(element("li", "", ...parts));
  }
}

/** Whether a line goes on with an item of a list that begins so far from the margin. */
function belongs(line, margin) {
  return line.trim() && line.search(/\S/) >= margin + 2;
}

function isTable(lines, i) {
  return lines[i].includes("|") && TABLE_RULE.test(lines[i + 1] ?? "");
}

function table(lines, i) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
  const row = (line, kind) => element("tr", "", ...cells(line).map((cell) => element(kind, "", ...inline(cell))));
  const head = element("thead", "", row(lines[i], "th"));
  const body = element("tbody");
  for (i += 2; i < lines.length && lines[i].includes("|"); i++) body.append(row(lines[i], "td"));
  const scrolled = element("div", "table", element("table", "", head, body));
  scrolled.tabIndex = 0;
  return [scrolled, i];
}

/** Text, links, code and emphasis. */
function inline(text, depth = 0) {
  const made = [];
  const unclosed = new Set(); // marks that nothing closes any more
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
    const [node, end] = special(text, i, mark, depth) ?? [];
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
function special(text, i, mark, depth) {
  if (mark[0] === "`") return span(text, i, mark);
  if (depth >= DEEPEST) return null;
  if (mark in EMPHASIS) return emphasis(text, i, mark, depth);
  if (mark.startsWith("http")) {
    const address = mark.replace(/[.,;:!?]+$/, "");
    return link(address, [address], i - mark.length + address.length);
  }
  const [whole, label, address] = LINK.exec(text.slice(i, i + 3000)) ?? [];
  return whole ? link(address, label ? inline(label, DEEPEST) : [address], i + whole.length) : null;
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

/** A link, if the address is one of the web. It says where it leads. */
function link(address, label, end) {
  if (!/^(https?:\/\/|mailto:)/i.test(address) || !URL.canParse(address)) return null;
  const made = element("a", "", ...label);
  made.href = made.title = address;
  made.target = "_blank";
  made.rel = "noopener noreferrer";
  return [made, end];
}
