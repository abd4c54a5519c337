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

/** The blocks of a text, in order: {kind, raw, start, html()}; `raw`s together are the text. */
export function blocks(text) {
  const source = text.replace(/\r\n?/g, "\n");
  let start = 0;
  const found = [];
  const tokens = marked.lexer(source);
  for (const token of tokens) {
    const only = Object.assign([token], { links: tokens.links });
    found.push({ kind: token.type, raw: token.raw, start, html: () => marked.parser(only) });
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
