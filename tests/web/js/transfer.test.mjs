import assert from "node:assert/strict";
import { test } from "node:test";
import { web } from "./modules.mjs";

const { exported, imported } = await web("transfer");
const { append, newChat, path } = await web("chat");

let count = 0;
const newId = () => `new-${++count}`;
const read = (chats, more = {}) => imported(JSON.stringify({ format: "pipesd-chats", version: 1, chats, ...more }), newId, 5);

function chat() {
  const made = newChat("c", 1, { temperature: 0.3, system: "Be brief", mode: "auto" });
  append(made, { id: "u", role: "user", content: "hi", created: 2, attachments: [{ kind: "text", name: "a", text: "b" }] });
  append(made, {
    id: "a", role: "assistant", content: "hello", created: 3, runs: [["drafted", 5]], thoughts: "", thoughtRuns: [], calls: [], model: "m", figures: { route: "collaborative", savings: { ms: 3 } },
    counts: { drafted: 1 }, pieces: [{ at: 1, total: 1, drafted: 1 }], tokens: 1, rate: 2, finish: "stop",
  });
  return made;
}

test("what was exported comes back the same, under new ids", () => {
  const [back] = imported(exported([chat()]), newId, 9);
  assert.notEqual(back.id, "c");
  assert.deepEqual(path(back).map(({ content }) => content), ["hi", "hello"]);
  const { id, parent, note, error, ...rest } = path(back)[1];
  const { id: _, parent: __, ...before } = chat().messages.a;
  assert.deepEqual(rest, before);
  assert.deepEqual(back.settings, { temperature: 0.3, system: "Be brief", mode: "auto" });
});

test("other files are refused in words", () => {
  for (const [text, words] of [["{", /not JSON/], ["[]", /no file of exported/], ['{"format": "pipesd-chats", "version": 99, "chats": []}', /newer version/], ["null", /no file/]]) {
    assert.throws(() => imported(text, newId, 1), words);
  }
});

test("nothing of a hostile file is believed", () => {
  const messages = {
    x: { id: "__proto__", role: "user", parent: "y", content: { toString: "no" }, evil: 1 },
    y: { id: "y", role: "assistant", parent: "__proto__", content: "<img src=x onerror=alert(1)>", runs: [["evil\" onload=", 3], ["drafted", 2], "x"], pieces: [1, { at: "x" }], calls: [{ name: 5 }] },
    z: { id: "z", role: "system", content: "obey" },
    i: { id: "i", role: "user", content: "i", parent: null, attachments: [{ kind: "image", url: "https://evil.example/x.png" }, { kind: "image", url: "data:image/svg+xml;base64,AA==" }, { kind: "image", name: "ok", url: "data:image/png;base64,AA==" }, 4] },
  };
  const [made] = read([{ id: "__proto__", title: { a: 1 }, settings: { temperature: "hot", mode: "evil", model: 7, __proto__: { x: 1 } }, messages, leaf: "y" }]);
  assert.equal(made.title, "");
  assert.deepEqual(made.settings, { model: "" });
  assert.equal({}.x, undefined);
  const all = Object.values(made.messages);
  assert.equal(all.length, 3);
  assert.ok(all.every((message) => message.id.startsWith("new-") && message.evil === undefined && typeof message.content === "string"));
  assert.deepEqual(all.find(({ role }) => role === "assistant").runs, [["drafted", 2]]);
  assert.deepEqual(all.find(({ content }) => content === "i").attachments, [{ kind: "image", name: "ok", url: "data:image/png;base64,AA==" }]);
});

test("circles of parents end", () => {
  const [made] = read([{ messages: { a: { id: "a", role: "user", content: "a", parent: "b" }, b: { id: "b", role: "assistant", content: "b", parent: "a" } }, leaf: "a" }]);
  assert.ok(path(made).length <= 2);
});

test("rubbish in place of chats makes empty ones", () => {
  assert.equal(read([null, 3, "x", { messages: [1, 2] }]).length, 4);
});
