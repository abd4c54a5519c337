import assert from "node:assert/strict";
import { test } from "node:test";
import { web } from "./modules.mjs";

const { blocks, spoken } = await web("markdown");
const html = (text) => blocks(text).flatMap((block) => block.html()).join("");

const DOCUMENT = `# Title

Some *text* with \`code\` and [a link](https://example.org/a?b=1&c=2).

- one
- two
  - nested

| a | b |
|---|---|
| 1 | 2 |

\`\`\`python
def f(x):
    return x
\`\`\`

> quote

1. [x] done
`;

test("blocks put together are the text, whatever stands in it", () => {
  for (const text of [DOCUMENT, "plain", "", "a\n\n\n\nb\n", "```\nopen", "<div>\nx\n</div>\n\ny", "| a |\n|-|\n| b", "  indented\n\n\tcode"]) {
    assert.equal(blocks(text).map((block) => block.raw).join(""), text);
  }
});

test("every beginning of a text can be rendered: it comes in pieces", () => {
  for (let end = 0; end <= DOCUMENT.length; end++) {
    const found = blocks(DOCUMENT.slice(0, end));
    assert.equal(found.map((block) => block.raw).join("").length, end);
    for (const block of found) block.html();
  }
});

test("blocks that are finished stay as they are while the text grows", () => {
  const paragraph = "Some words here.\n\n";
  const before = blocks(paragraph + "More");
  const after = blocks(paragraph + "More words");
  assert.equal(before[0].raw, after[0].raw);
});

for (const [kind, head, unit] of [["list", "", "- item\n"], ["list", "", "3. item\n"], ["table", "| a |\n|---|\n", "| cell |\n"]]) {
  test(`a long ${kind} comes in parts, of which only the last changes as it grows: ${unit.trim()}`, () => {
    const parts = (num) => blocks(head + unit.repeat(num))[0].html();
    const all = parts(100).join("");
    assert.equal(all.match(/<li>|<td>/g).length, 100);
    assert.ok(parts(100).length > 5);
    for (let num = 1; num < 100; num++) assert.deepEqual(parts(num).slice(0, -1), parts(num + 1).slice(0, parts(num).length - 1));
  });
}

test("the usual markup is there", () => {
  const made = html(DOCUMENT);
  for (const part of ["<h1>Title</h1>", "<em>text</em>", "<code>code</code>", "<table>", 'class="language-python"', "<blockquote>", "☑"]) assert.ok(made.includes(part), part);
  assert.ok(made.includes('href="https:&#47;') || made.includes('href="https://example.org/a?b=1&#38;c=2"'), made);
});

test("a model's markup is text", () => {
  for (const attack of ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "a <b onclick=x>b</b>", "<svg/onload=alert(1)>", "<!-- x --><iframe src=//e></iframe>"]) {
    assert.ok(!/<(script|img|b |svg|iframe|!--)/.test(html(attack)), html(attack));
  }
});

test("links lead to the web or to mail, nowhere else", () => {
  for (const target of ["javascript:alert(1)", "JaVaScRiPt:alert(1)", "data:text/html,x", "vbscript:x", "java\tscript:x", "file:///etc/passwd", "&#106;avascript:alert(1)"]) {
    assert.ok(!html(`[x](${target})`).includes("<a"), target);
    assert.ok(!html(`[x](<${target}>)`).includes("<a"), target);
    assert.ok(!html(`[x][1]\n\n[1]: ${target}`).includes("<a"), target);
  }
  assert.ok(html("<https://example.org>").includes('<a href="https://example.org">'));
});

test("an image is a link: nothing is fetched from elsewhere", () => {
  assert.equal(html("![alt](https://example.org/x.png)"), '<p><a href="https://example.org/x.png">alt</a></p>\n');
});

test("the language of code cannot break out of its attribute", () => {
  assert.ok(!html('```"><img/src=x\ny\n```').includes("<img"));
});

test("what is read out has no markup", () => {
  assert.equal(spoken("## Title\n\nSome **bold** [link](https://x.y)\n\n```js\ncode\n```"), "Title\nSome bold link\ncode");
});
