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
      const names = sliced(runs, block.start, block.start + block.raw.length);
      const key = JSON.stringify([block.raw, tint, tint || names.some(([name]) => name === "draft") ? names : 0]);
      const old = this.shown[i];
      if (old?.key === key) return;
      const made = (this.shown[i] = this.draw({ ...block, key }, names, tint, old));
      if (!old) this.box.append(made.node);
      else if (old.node !== made.node) old.node.replaceWith(made.node);
    });
  }

  /** `block` with its node, which is the one of `old` where that can become it. */
  draw(block, names, tint, old) {
    if (block.kind === "space") return { ...block, node: document.createComment("") };
    const html = block.html();
    const parts = html.map((part, i) => (old?.html?.[i] === part && old.parts[i]) || sanitised(part));
    const made = parts.length > 1 ? joined(parts) : parts[0];
    const code = made.querySelector("pre > code");
    if (block.kind === "code" && code) {
      const language = code.className.replace("language-", "");
      const coloured = canHighlight(language, () => this.again()) ? highlighted(code.textContent, language) : null;
      if (coloured) code.replaceChildren(...coloured.childNodes);
      tinted(code, block.raw, names, tint);
      if (old?.code && old.language === language) {
        become(old.code, code); // buttons keep their focus
        return { ...block, node: old.node, code: old.code, language };
      }
      return { ...block, node: codeBlock(code, language), code, language };
    }
    for (const table of made.querySelectorAll("table")) table.replaceWith(element("div", { class: "table", tabindex: "0" }, table.cloneNode(true)));
    for (const pre of made.querySelectorAll("pre")) pre.tabIndex = 0;
    const node = element("div", { class: "block" }, made);
    tinted(node, block.raw, names, tint);
    const kept = { ...block, html, parts: parts.length > 1 ? parts : [] };
    if (old?.kind !== block.kind || old.code) return { ...kept, node };
    become(old.node, node);
    return { ...kept, node: old.node };
  }

  /** A language has been loaded. */
  again() {
    for (const shown of this.shown) if (shown.code) shown.key = "";
    if (this.last) this.show(...this.last);
  }
}

/** One list or table of all parts of it, which stay as they are. */
function joined(parts) {
  const [made, ...others] = parts.map((part) => part.cloneNode(true));
  const units = (part) => part.querySelector("ol, ul, tbody");
  units(made).append(...others.flatMap((part) => [...units(part).childNodes]));
  return made;
}

/** Gives `old` the content of `made`, and keeps what they share: the beginning of what grows, and selections in it. */
function become(old, made) {
  const wanted = [...made.childNodes];
  wanted.forEach((node, i) => {
    const kept = old.childNodes[i];
    if (!kept) old.append(node);
    else if (kept.isEqualNode(node)) return;
    else if (kept.nodeType === Node.TEXT_NODE && node.data?.startsWith(kept.data)) kept.appendData(node.data.slice(kept.length));
    else if (kept.cloneNode().isEqualNode(node.cloneNode())) become(kept, node);
    else kept.replaceWith(node);
  });
  while (old.childNodes.length > wanted.length) old.lastChild.remove();
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
