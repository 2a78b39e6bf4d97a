// Markdown as elements. What a model writes is not trusted: only the elements named here and in inline.js are made, of
// text nodes. What is no Markdown that is known here stays the text it is.
//
// The time is linear in the text, however small the pieces are in which it comes: code is drawn piece by piece, of all
// else the last block anew with each piece, and a block ends where it grows too long.

import { copyButton, element } from "/page/dom.js";
import { inline } from "/page/inline.js";

const DEEPEST = 6;
const LONGEST_BLOCK = 8192;
const LONGEST_MARGIN = 100;
const LONGEST_END = 200; // of a line that ends a fence
const FENCE = /^ *(`{3,}|~{3,})\s*(\S*)/;
const MAY_END_FENCE = /^ *[`~]*\s*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*)$/s;
const RULE = /^ {0,3}(?:(?:\*\s*){3,}|(?:-\s*){3,}|(?:_\s*){3,})$/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?: +(.*)|)$/s;
const QUOTE = /^ {0,3}> ?/;
const TABLE_RULE = /^(?: *\|)?(?: *:?-+:? *\|)+(?: *:?-+:? *)?$/;

/** Text that comes in pieces, drawn block by block. */
export class Markdown {
  constructor(root) {
    this.root = root;
    this.rest = ""; // of the text: the block that is not whole yet
    this.read = 0; // characters of it in lines that are whole
    this.fence = ""; // that is open after those, in an item of a list
    this.tail = []; // its elements
    this.code = null; // that is not whole yet, in place of all these
  }

  append(text) {
    this.rest += text;
    this.tail.forEach((block) => block.remove());
    while (this.code ? this.drawCode() : this.drawBlock());
    this.tail = this.code ? [] : blocks(this.rest);
    this.root.append(...this.tail);
  }

  /** Draw the next block if it is whole, or begin code; false if there is neither. A block ends with a blank line outside
   * a fence, before and after code that stands in no list, and where it is too long. */
  drawBlock() {
    for (;;) {
      const end = this.rest.indexOf("\n", this.read);
      if ((end < 0 ? this.rest.length : end) > LONGEST_BLOCK) return this.draw(this.read || partOf(this.rest));
      if (end < 0) return false;
      const line = this.rest.slice(this.read, end);
      const { mark, margin, language } = (!this.fence && fenceAt(line)) || {};
      if (mark && margin < (this.read ? 2 : LONGEST_MARGIN)) {
        if (this.read) return this.draw(this.read);
        const { figure, body } = codeFigure(language);
        if (margin > 1) figure.classList.add("inner");
        this.root.append(figure);
        this.code = { mark, margin, body, first: true, inLine: false };
        this.rest = this.rest.slice(end + 1);
        return true;
      }
      this.fence = fenceAfter(line.replace(/^ *(?:[-*+]|\d{1,9}[.)]) +/, ""), this.fence);
      this.read = end + 1;
      if (!this.fence && !line.trim()) return this.draw(this.read);
    }
  }

  draw(size) {
    this.root.append(...blocks(this.rest.slice(0, size)));
    this.rest = this.rest.slice(size);
    this.read = 0;
    this.fence = "";
    return true;
  }

  /** Draw a line of the code, or what there is of it; false if the text is at its end. */
  drawCode() {
    const { code, rest } = this;
    const end = rest.indexOf("\n");
    const line = end < 0 ? rest : rest.slice(0, end);
    if (!code.inLine) {
      if (end < 0 && line.length <= LONGEST_END && MAY_END_FENCE.test(line)) return false;
      if (!fenceAfter(line, code.mark)) this.code = null;
      else code.body.append((code.first ? "" : "\n") + withoutMargin(line, code.margin));
      code.first = false;
    } else code.body.append(line);
    code.inLine = end < 0;
    this.rest = end < 0 ? "" : rest.slice(end + 1);
    return end >= 0;
  }
}

/** How much of a line that is too long is drawn as a block: whole words and whole characters. */
function partOf(line) {
  const size = line.lastIndexOf(" ", LONGEST_BLOCK) + 1 || LONGEST_BLOCK;
  return /[\uD800-\uDBFF]/.test(line[size - 1]) ? size - 1 : size;
}

/** The fence that a line begins with, how far from the margin, and what is said after it. */
function fenceAt(line) {
  const [found, mark, language] = FENCE.exec(line) ?? [];
  if (!found || (mark[0] === "`" && line.includes("`", found.indexOf(mark) + mark.length))) return null;
  return { mark, language, margin: found.indexOf(mark) };
}

/** The fence that is open after a line, if `fence` was open before it. */
function fenceAfter(line, fence) {
  if (fence && line.length > LONGEST_END) return fence;
  const { mark, language } = fenceAt(line) ?? {};
  if (!mark) return fence;
  if (!fence) return mark;
  return mark.startsWith(fence) && !language ? "" : fence;
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
  if (fenceAt(line)) return code(lines, i);
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
  return nests || fenceAt(line) || HEADING.test(line) || RULE.test(line) || isTable(lines, i);
}

function code(lines, i) {
  const { mark, margin, language } = fenceAt(lines[i]);
  const inside = [];
  let open = mark;
  for (i++; i < lines.length && (open = fenceAfter(lines[i], open)); i++) inside.push(withoutMargin(lines[i], margin));
  const { figure, body } = codeFigure(language);
  body.append(inside.join("\n"));
  return [figure, i + 1];
}

function codeFigure(language) {
  const body = element("code");
  const button = copyButton(() => body.textContent, "the code");
  const scrolled = element("pre", "", body);
  scrolled.tabIndex = 0; // so that the keyboard can scroll it
  return { figure: element("figure", "code", element("figcaption", "", element("span", "", language), button), scrolled), body };
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
