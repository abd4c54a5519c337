// Markdown to HTML, block by block. Pure; what comes out still goes through the sanitiser (sanitised.js).

import { Marked } from "../vendor/marked.js";

const LINK = /^(https?:|mailto:)/i;
const escaped = (text) => text.replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);

const marked = new Marked({
  gfm: true,
  renderer: {
    // A model's HTML is text, not markup.
    html: ({ text }) => escaped(text),
    // Nothing is fetched from elsewhere: an image is a link to it.
    image({ href, text }) {
      return anchor(href, escaped(text || href));
    },
    link({ href, tokens }) {
      return anchor(href, this.parser.parseInline(tokens));
    },
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
    code({ text, lang }) {
      const name = (lang ?? "").match(/^[\w+#-]+/)?.[0] ?? "";
      return `<pre><code class="language-${escaped(name.toLowerCase())}">${escaped(text)}</code></pre>`;
    },
  },
});

function anchor(href, inner) {
  return LINK.test(href) ? `<a href="${escaped(href)}">${inner}</a>` : inner;
}

const UNITS = { list: "items", table: "rows" };
const MOST_UNITS = 16;

/** A long list or table as several of the same kind: as it grows, only the last of them changes. */
function parts(token) {
  const name = UNITS[token.type];
  const units = token[name] ?? [];
  if (units.length <= MOST_UNITS) return [token];
  return Array.from({ length: Math.ceil(units.length / MOST_UNITS) }, (_, i) => ({ ...token, [name]: units.slice(i * MOST_UNITS, (i + 1) * MOST_UNITS) }));
}

/** The blocks of a text, in order: {kind, raw, start, html()}; `raw`s together are the text. `html` gives the block's parts. */
export function blocks(text) {
  const source = text.replace(/\r\n?/g, "\n");
  let start = 0;
  const found = [];
  const tokens = marked.lexer(source);
  for (const token of tokens) {
    const html = (part) => marked.parser(Object.assign([part], { links: tokens.links }));
    found.push({ kind: token.type, raw: token.raw, start, html: () => parts(token).map(html) });
    start += token.raw.length;
  }
  return found;
}

/** What a screen reader is told of a text: the words without the markup. */
export function spoken(text) {
  return text
    .replace(/^\s*(`{3,}|~{3,}).*$/gm, "")
    .replace(/!?\[([^\]]*)\]\([^)]*\)/g, "$1")
    .replace(/^\s{0,3}(#{1,6}|>|[-*+])\s+/gm, "")
    .replace(/[*_`~]{1,3}/g, "")
    .replace(/\n{2,}/g, "\n")
    .trim();
}
