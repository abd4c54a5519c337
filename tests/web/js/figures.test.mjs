import assert from "node:assert/strict";
import { test } from "node:test";
import { web } from "./modules.mjs";

const { details, duration, modeLine, savings, size, summary } = await web("figures");

test("a gain and a loss are both said", () => {
  const [passes, time, traffic] = savings({ completion_tokens: 100, savings: { passes: 61, ms: -420, bytes: -5300 } });
  assert.deepEqual([passes.value, passes.good], ["61 (61 %) fewer", true]);
  assert.deepEqual([time.value, time.good], ["420 ms later", false]);
  assert.deepEqual([traffic.value, traffic.good], ["5.3 kB more", false]);
});

test("what is not known is not made up", () => {
  for (const row of savings({})) assert.deepEqual([row.value, row.good], ["not known", null]);
  assert.equal(savings({ savings: { passes: 0, ms: null, bytes: null } })[0].value, "no difference");
  assert.equal(summary({ tokens: null, figures: {} }), "");
  assert.deepEqual(details({}, null), []);
});

test("the line under an answer", () => {
  assert.equal(summary({ tokens: 186, rate: 45.2, figures: { savings: { passes: 93, ms: 1200 } } }), "186 tokens · 45 tokens/s · 50 % fewer passes · 1.2 s sooner than streaming");
  assert.equal(summary({ tokens: 1, rate: null, figures: {} }), "1 token");
  assert.match(summary({ tokens: 10, rate: 2, figures: { savings: { passes: -1, ms: -900 } } }), /10 % more passes · 900 ms later/);
});

test("the mode in force and why", () => {
  assert.equal(modeLine({}), "No answer yet.");
  assert.equal(
    modeLine({ route: "collaborative", drafted: true, in_force: "wait", in_force_reason: "waiting for drafts costs no time here and saves passes" }),
    "The target waits for drafts: waiting for drafts costs no time here and saves passes.",
  );
  assert.equal(modeLine({ route: "collaborative", drafted: false, reason: "not drafted: beam search" }), "The server answers without drafts: beam search.");
  assert.equal(modeLine({ route: "local", reason: "verifier out of reach" }), "The draft model alone; the target has not checked it: verifier out of reach.");
  assert.equal(modeLine({ route: "cloud", reason: "asked for" }), "Passed through to the server, without drafts: asked for.");
});

test("durations and sizes", () => {
  assert.deepEqual([12.4, 4120, 125_000].map(duration), ["12 ms", "4.1 s", "2 min 5 s"]);
  assert.deepEqual([812, 4100, 2.34e6].map(size), ["812 B", "4.1 kB", "2.3 MB"]);
});
