import assert from "node:assert/strict";
import { test } from "node:test";
import { web } from "./modules.mjs";

const { overlaid, sliced } = await web("provenance");

/** What each source wrote of the texts, put together. */
function shares(texts, source, runs) {
  const found = {};
  overlaid(texts, source, runs).forEach((pieces, i) => {
    assert.equal(pieces.at(-1)?.[1] ?? 0, texts[i].length);
    for (const [start, end, name] of pieces) found[name] = (found[name] ?? "") + texts[i].slice(start, end);
  });
  return found;
}

test("plain text is cut where its runs end", () => {
  assert.deepEqual(overlaid(["Hello world"], "Hello world", [["drafted", 5], ["corrected", 11]]), [[[0, 5, "drafted"], [5, 11, "corrected"]]]);
});

test("markup between the words belongs to nobody", () => {
  const source = "Some **bold** and `code`.";
  const texts = ["Some ", "bold", " and ", "code", "."];
  const at = source.indexOf(" and");
  assert.deepEqual(shares(texts, source, [["drafted", at], ["corrected", source.length]]), { drafted: "Some bold", corrected: " and code." });
});

test("a list's numbers and a table's lines do not shift what follows", () => {
  const source = "1. one\n2. two\n\n| a | b |\n|---|---|\n| c | d |";
  const texts = ["one", "two", "a", "b", "c", "d"];
  const at = source.indexOf("two");
  const table = source.indexOf("| a");
  assert.deepEqual(shares(texts, source, [["drafted", at], ["corrected", table], ["looked_up", source.length]]), { drafted: "one", corrected: "two", looked_up: "abcd" });
});

test("blanks that rendering adds take nothing away", () => {
  const source = "1. The draft proposes.\n2. The target verifies.\n3. What agrees is kept.\n\nEnd";
  const texts = ["\n", "The draft proposes.", "\n", "The target verifies.", "\n", "What agrees is kept.", "\n", "\n", "End"];
  const runs = [["drafted", source.indexOf("2.")], ["corrected", source.indexOf("3.")], ["looked_up", source.length]];
  const found = shares(texts, source, runs);
  assert.equal(found.drafted.trim(), "The draft proposes.");
  assert.equal(found.corrected.trim(), "The target verifies.");
  assert.equal(found.looked_up.replace(/\s+/g, " ").trim(), "What agrees is kept. End");
});

test("code keeps its lines", () => {
  const source = "```python\ndef f():\n    return 1\n```\n";
  const code = "def f():\n    return 1";
  const at = source.indexOf("return");
  assert.deepEqual(shares(["def", " f():\n    ", "return", " ", "1"], source, [["drafted", at], ["corrected", source.length]]), { drafted: "def f():\n    ", corrected: "return 1" });
  assert.equal(shares([code], source, [["drafted", source.length]]).drafted, code);
});

test("an entity does not lose the place", () => {
  const source = "a &lt; b and c";
  assert.deepEqual(shares(["a < b and c"], source, [["drafted", source.indexOf("b")], ["corrected", source.length]]), { drafted: "a < ", corrected: "b and c" });
});

test("text after the last run has no name", () => {
  assert.deepEqual(overlaid(["ab"], "ab", [["drafted", 1]]), [[[0, 1, "drafted"], [1, 2, null]]]);
});

test("runs of a block are counted from its start", () => {
  const runs = [["a", 4], ["b", 10], ["c", 12]];
  assert.deepEqual(sliced(runs, 2, 11), [["a", 2], ["b", 8], ["c", 9]]);
  assert.deepEqual(sliced(runs, 10, 12), [["c", 2]]);
  assert.deepEqual(sliced(runs, 12, 15), []);
});
