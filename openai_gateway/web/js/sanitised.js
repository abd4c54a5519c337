// HTML that a text was rendered to, as nodes that can neither run, load nor send anything.

import "../vendor/purify.js";
import { element } from "./dom.js";

const purify = globalThis.DOMPurify;
const CLASSES = /^language-[\w+#-]+$/;
const ALLOWED = {
  ALLOWED_TAGS: [
    "a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "span",
    "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
  ],
  ALLOWED_ATTR: ["align", "class", "href", "start"],
  ALLOW_ARIA_ATTR: false,
  ALLOW_DATA_ATTR: false,
  ADD_URI_SAFE_ATTR: ["align", "start"],
  ALLOWED_URI_REGEXP: /^(https?:|mailto:)/i,
  RETURN_DOM_FRAGMENT: true,
};

purify.addHook("uponSanitizeAttribute", (_, attribute) => {
  if (attribute.attrName === "class" && !CLASSES.test(attribute.attrValue)) attribute.keepAttr = false;
});

export function sanitised(html) {
  const made = purify.sanitize(html, ALLOWED);
  for (const link of made.querySelectorAll("a[href]")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer";
  }
  return made;
}

const LANGUAGES = {
  bash: "bash", sh: "bash", shell: "bash", zsh: "bash", console: "bash", c: "c", h: "c", cpp: "cpp", "c++": "cpp", cc: "cpp", csharp: "csharp", "c#": "csharp",
  cs: "csharp", diff: "diff", patch: "diff", go: "go", golang: "go", java: "java", javascript: "javascript", js: "javascript", jsx: "javascript", mjs: "javascript",
  json: "json", jsonc: "json", python: "python", py: "python", rust: "rust", rs: "rust", sql: "sql", typescript: "typescript", ts: "typescript", tsx: "typescript",
  html: "xml", xml: "xml", svg: "xml", yaml: "yaml", yml: "yaml",
};
const LONGEST = 50_000;
const loaded = new Map();
let highlighter = null;

/** Whether code in `name` can be coloured; begins to load what that needs, and calls `ready` once it is there. */
export function canHighlight(name, ready) {
  const language = LANGUAGES[name];
  if (!language) return false;
  if (loaded.get(language) === true) return true;
  if (!loaded.has(language)) {
    loaded.set(language, []);
    load(language);
  }
  loaded.get(language).push(ready);
  return false;
}

async function load(language) {
  try {
    const [core, grammar] = await Promise.all([import("../vendor/highlight.js"), import(`../vendor/languages/${language}.js`)]);
    highlighter ??= core.default;
    highlighter.registerLanguage(language, grammar.default);
  } catch {
    return; // code without colours is code all the same
  }
  const waiting = loaded.get(language);
  loaded.set(language, true);
  for (const ready of waiting) ready();
}

const DEEPEST = 32;

/** What highlight.js has found, as nodes: it walks over its scopes and texts. */
class Coloured {
  made = document.createDocumentFragment();
  open = [this.made];

  get top() {
    return this.open[this.open.length - 1];
  }

  addText(text) {
    this.top.append(text);
  }

  openNode({ scope }) {
    if (!scope) return;
    const span = this.open.length > DEEPEST ? this.top : element("span", { class: `hljs-${scope.split(/[.:]/)[0]}` });
    if (span !== this.top) this.top.append(span);
    this.open.push(span);
  }

  closeNode({ scope }) {
    if (scope) this.open.pop();
  }
}

/** Coloured nodes of `code`, null if there are none; only after `canHighlight`. */
export function highlighted(code, name) {
  if (code.length > LONGEST) return null;
  const found = highlighter.highlight(code, { language: LANGUAGES[name], ignoreIllegals: true });
  if (found.errorRaised) return null;
  const coloured = new Coloured();
  found._emitter.walk(coloured);
  return coloured.made;
}
