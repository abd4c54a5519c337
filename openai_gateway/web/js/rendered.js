// A text in markdown, kept up to date on the page while it grows: only blocks that changed are drawn again.

import { element } from "./dom.js";
import { blocks } from "./markdown.js";
import { overlaid, sliced, SOURCES } from "./provenance.js";
import { canHighlight, highlighted, sanitised } from "./sanitised.js";

const COPIED_MS = 1500;

export class Rendered {
  constructor(box) {
    this.box = box;
    this.shown = [];
    this.last = null;
  }

  /**
   * `runs`: who wrote what of `text`; those called "draft" are drawn in grey and told to nobody who cannot see.
   * `tint`: colour the others, too.
   */
  show(text, runs, tint) {
    this.last = [text, runs, tint];
    const found = blocks(text);
    while (this.shown.length > found.length) this.shown.pop().node.remove();
    found.forEach((block, i) => {
      if (block.kind === "space") {
        this.replace(i, { ...block, key: "", node: document.createComment("") });
        return;
      }
      const names = sliced(runs, block.start, block.start + block.raw.length);
      const key = JSON.stringify([block.raw, tint, tint || names.some(([name]) => name === "draft") ? names : 0]);
      if (this.shown[i]?.key !== key) this.replace(i, this.draw({ ...block, key }, names, tint, this.shown[i]));
    });
  }

  replace(i, made) {
    const old = this.shown[i];
    if (old?.node === made.node) {
      this.shown[i] = made;
      return;
    }
    if (old) old.node.replaceWith(made.node);
    else this.box.append(made.node);
    this.shown[i] = made;
  }

  draw(block, names, tint, old) {
    const made = sanitised(block.html());
    const code = made.querySelector("pre > code");
    if (block.kind === "code" && code) {
      const language = code.className.replace("language-", "");
      const coloured = canHighlight(language, () => this.again()) ? highlighted(code.textContent, language) : null;
      if (coloured) code.replaceChildren(...coloured.childNodes);
      tinted(code, block.raw, names, tint);
      if (old?.code && old.language === language) {
        old.code.replaceChildren(...code.childNodes); // buttons keep their focus
        return { ...block, node: old.node, code: old.code, language };
      }
      return { ...block, node: codeBlock(code, language), code, language };
    }
    for (const table of made.querySelectorAll("table")) table.replaceWith(element("div", { class: "table", tabindex: "0" }, table.cloneNode(true)));
    for (const pre of made.querySelectorAll("pre")) pre.tabIndex = 0;
    const node = element("div", { class: "block" }, made);
    tinted(node, block.raw, names, tint);
    return { ...block, node };
  }

  /** A language has been loaded. */
  again() {
    for (const shown of this.shown) if (shown.code) shown.key = "";
    if (this.last) this.show(...this.last);
  }
}

function codeBlock(code, language) {
  const copy = element("button", { type: "button", class: "copy" }, "Copy");
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(committed(code));
    copy.textContent = "Copied";
    setTimeout(() => (copy.textContent = "Copy"), COPIED_MS);
  });
  const pre = element("pre", { tabindex: "0", "aria-label": language ? `Code, ${language}` : "Code" }, code);
  return element("div", { class: "block code" }, element("div", { class: "code-bar" }, element("span", {}, language || "code"), copy), pre);
}

/** The text of `node` without what is not verified yet. */
function committed(node) {
  const copy = node.cloneNode(true);
  for (const draft of copy.querySelectorAll(".draft")) draft.remove();
  return copy.textContent;
}

/** Puts the words of `node` into spans by who wrote them. */
function tinted(node, raw, names, tint) {
  const wanted = (name) => name === "draft" || (tint && name);
  if (!names.some(([name]) => wanted(name))) return;
  const walker = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
  const texts = [];
  while (walker.nextNode()) texts.push(walker.currentNode);
  overlaid(texts.map((text) => text.data), raw, names).forEach((pieces, i) => {
    const text = texts[i];
    const isBetween = !text.data.trim() && node.localName !== "code"; // blanks between blocks
    if (isBetween || !pieces.some(([, , name]) => wanted(name))) return;
    text.replaceWith(...pieces.map(([start, end, name]) => span(text.data.slice(start, end), wanted(name) ? name : null)));
  });
}

function span(words, name) {
  if (!name) return document.createTextNode(words);
  const hidden = name === "draft" ? { "aria-hidden": "true" } : {};
  return element("span", { class: name, title: SOURCES[name]?.words, ...hidden }, words);
}
