// Draws Markdown without a browser. Standard input: a list of texts, each a list of pieces. Output: of each, the HTML and
// how much was done for it: elements made and characters put into them.

import { readFileSync } from "node:fs";
import { Markdown } from "./markdown.js";

const KEPT = ["href", "start"];
let work = 0;

class Element {
  constructor(name) {
    this.tagName = name.toUpperCase();
    this.childNodes = [];
    this.classList = { add: () => {} };
    work++;
  }
  append(...nodes) {
    for (const node of nodes) {
      if (node instanceof Element) node.parent = this;
      else work += node.length;
      this.childNodes.push(node);
    }
  }
  remove() {
    // Only the last ones are ever removed.
    this.parent.childNodes.splice(this.parent.childNodes.lastIndexOf(this), 1);
  }
  setAttribute() {}
  get html() {
    const name = this.tagName.toLowerCase();
    if (name === "figcaption") return "";
    const attributes = KEPT.filter((key) => key in this).map((key) => ` ${key}="${this[key]}"`);
    const end = name === "hr" ? "" : `</${name}>`;
    return `<${name}${attributes.join("")}>${this.inside}${end}`;
  }
  get inside() {
    return this.childNodes.map((node) => node.html ?? escaped(node)).join("");
  }
}

function escaped(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

globalThis.document = { createElement: (name) => new Element(name) };
globalThis.navigator ??= {};

const drawn = JSON.parse(readFileSync(0, "utf8")).map((pieces) => {
  work = 0;
  const root = new Element("div");
  const markdown = new Markdown(root);
  for (const piece of pieces) markdown.append(piece);
  return { html: root.inside, work };
});
console.log(JSON.stringify(drawn));
