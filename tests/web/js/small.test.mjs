import assert from "node:assert/strict";
import { test } from "node:test";
import { web } from "./modules.mjs";

const { events, inWords } = await web("gateway");
const { sentenceEnd } = await web("announcer");
const { binned } = await web("pipeline");
const { parsed } = await web("settings");

async function* cut(text, size) {
  for (let i = 0; i < text.length; i += size) yield text.slice(i, i + size);
}

test("a stream of events is read wherever it is cut", async () => {
  const text = ': keep-alive\n\ndata: {"a": 1}\n\nevent: x\ndata:{"b":\ndata: 2}\n\ndata: [DONE]\n\ndata: {"never": 1}\n\n';
  for (let size = 1; size < text.length; size++) {
    const found = [];
    for await (const each of events(cut(text, size))) found.push(each);
    assert.deepEqual(found, [{ a: 1 }, { b: 2 }]);
  }
});

test("errors are sentences", () => {
  assert.match(inWords(401), /API key/);
  assert.match(inWords(429, { message: "full." }), /busy: full\. Try again/);
  assert.match(inWords(503, { message: "gone" }), /out of reach: gone/);
  assert.equal(inWords(400, { message: "bad" }), "bad");
  assert.match(inWords(500), /status 500/);
});

test("sentences are told once they are whole", () => {
  const text = "One. Two is here! Three";
  assert.equal(text.slice(0, sentenceEnd(text, 0)), "One. Two is here! ");
  assert.equal(sentenceEnd(text, 18), 18);
  assert.equal(sentenceEnd("version 1.5 is", 0), 0);
});

test("bins hold every token", () => {
  const pieces = [0, 10, 99, 100].map((at) => ({ at, total: 2, drafted: 1, corrected: 1 }));
  const bins = binned(pieces, 100, 10);
  assert.deepEqual(bins.map(({ total }) => total), [2, 2, 0, 0, 0, 0, 0, 0, 0, 4]);
});

test("settings are numbers in their range, or nothing", () => {
  assert.equal(parsed("temperature", " 0,7 "), 0.7);
  assert.equal(parsed("temperature", ""), undefined);
  for (const [name, words] of [["temperature", "-1"], ["top_p", "1.5"], ["top_k", "2.5"], ["seed", "x"], ["max_tokens", "0"]]) assert.equal(parsed(name, words), null);
});
