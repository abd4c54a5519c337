import assert from "node:assert/strict";
import { test } from "node:test";
import { web } from "./modules.mjs";

const { Answer, thinned } = await web("answer");

const said = (content, source = "drafted", more = {}) => ({
  choices: [{ index: 0, delta: { content }, ...more }],
  pipesd: { verified: source !== "unverified", provenance: [{ source, tokens: 1, text: content }] },
});
const drafts = (text) => ({ choices: [], pipesd: { provisional: { text, tokens: 1 } } });

test("text, runs and counts are what the chunks say", () => {
  const answer = new Answer(0);
  answer.take({ head: { route: "collaborative", reason: "default" } }, 1);
  for (const [words, source] of [["Hel", "drafted"], ["lo", "drafted"], [" wor", "corrected"], ["ld", "looked_up"]]) answer.take(said(words, source), 10);
  assert.equal(answer.text, "Hello world");
  assert.deepEqual(answer.runs, [["drafted", 5], ["corrected", 9], ["looked_up", 11]]);
  assert.deepEqual(answer.counts, { drafted: 2, looked_up: 1, server: 0, corrected: 1, unverified: 0 });
  assert.equal(answer.figures.route, "collaborative");
});

test("grey drafts become the text they said, or are gone", () => {
  const answer = new Answer(0);
  answer.take(drafts("one two three"), 1);
  answer.take(said("one "), 2);
  assert.equal(answer.grey, "two three");
  answer.take(said("2", "corrected"), 3);
  assert.equal(answer.grey, "");
  answer.take(drafts(" more"), 4);
  answer.take(said("", "drafted", { finish_reason: "stop" }), 5);
  assert.equal(answer.grey, "");
  assert.equal(answer.text, "one 2");
});

test("reasoning is kept apart, under either name", () => {
  const answer = new Answer(0);
  answer.take({ choices: [{ index: 0, delta: { reasoning: "Hm" } }] }, 1);
  assert.ok(answer.isThinking);
  answer.take({ choices: [{ index: 0, delta: { reasoning_content: "m" } }] }, 2);
  answer.take(said("So"), 3);
  assert.equal(answer.thoughts, "Hmm");
  assert.equal(answer.text, "So");
  assert.ok(!answer.isThinking);
});

test("the pieces of a tool call are put together", () => {
  const answer = new Answer(0);
  for (const call of [{ index: 0, function: { name: "weather", arguments: "" } }, { index: 0, function: { arguments: '{"a":' } }, { index: 0, function: { arguments: "1}" } }]) {
    answer.take({ choices: [{ index: 0, delta: { tool_calls: [call] } }] }, 1);
  }
  assert.deepEqual(answer.calls, [{ name: "weather", arguments: '{"a":1}' }]);
});

test("tokens a second count from the first piece, and the server's count of tokens holds", () => {
  const answer = new Answer(0);
  assert.equal(answer.rate, null);
  answer.take(said("a"), 100);
  answer.take(said("b"), 600);
  answer.take(said("c"), 1100);
  assert.equal(answer.rate, 2);
  answer.take({ choices: [], usage: { completion_tokens: 5 } }, 1200);
  assert.equal(answer.tokens, 5);
});

test("only the first of several answers is shown", () => {
  const answer = new Answer(0);
  answer.take({ choices: [{ index: 1, delta: { content: "other" } }] }, 1);
  assert.equal(answer.text, "");
});

test("a long answer keeps a bounded pipeline with the same number of tokens", () => {
  const pieces = Array.from({ length: 2000 }, (_, at) => ({ at, total: 2, drafted: 1, looked_up: 0, server: 0, corrected: 1, unverified: 0 }));
  const kept = thinned(pieces, 300);
  assert.ok(kept.length <= 300);
  assert.equal(kept.reduce((sum, { total }) => sum + total, 0), 4000);
  assert.equal(kept.at(-1).at, 1999);
});
