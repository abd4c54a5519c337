import assert from "node:assert/strict";
import { test } from "node:test";
import { web } from "./modules.mjs";

const { append, asMessages, fork, mentions, newChat, path, request, show, siblings, titleOf, withdraw } = await web("chat");

let now = 0;
const user = (id, content, more = {}) => ({ id, role: "user", content, created: ++now, ...more });
const assistant = (id, content) => ({ id, role: "assistant", content, created: ++now });
const contents = (chat) => path(chat).map((message) => message.content);

function talk() {
  const chat = newChat("c", 0);
  append(chat, user("u1", "one"));
  append(chat, assistant("a1", "first"));
  append(chat, user("u2", "two"));
  append(chat, assistant("a2", "second"));
  return chat;
}

test("a conversation is the path to its leaf", () => {
  assert.deepEqual(contents(talk()), ["one", "first", "two", "second"]);
});

test("an edited question is another branch, and both can be shown", () => {
  const chat = talk();
  append(chat, user("u2b", "two again"), "a1");
  append(chat, assistant("a2b", "other"));
  assert.deepEqual(contents(chat), ["one", "first", "two again", "other"]);
  assert.deepEqual(siblings(chat, "u2b").map(({ id }) => id), ["u2", "u2b"]);
  show(chat, "u2");
  assert.deepEqual(contents(chat), ["one", "first", "two", "second"]);
});

test("the first question can be edited, too", () => {
  const chat = talk();
  append(chat, user("u1b", "uno"), null);
  assert.deepEqual(contents(chat), ["uno"]);
  assert.deepEqual(siblings(chat, "u1").map(({ id }) => id), ["u1", "u1b"]);
});

test("an answer made anew stands beside the one before", () => {
  const chat = talk();
  append(chat, assistant("a2b", "third"), "u2");
  assert.deepEqual(siblings(chat, "a2").map(({ id }) => id), ["a2", "a2b"]);
  assert.equal(contents(chat).at(-1), "third");
});

test("a question that was taken back leaves what was there before", () => {
  const chat = talk();
  append(chat, user("u3", "three"));
  withdraw(chat, "u3");
  assert.deepEqual(contents(chat), ["one", "first", "two", "second"]);
  const single = newChat("d", 0);
  append(single, user("x", "only"));
  withdraw(single, "x");
  assert.deepEqual(single.messages, {});
  assert.equal(single.leaf, null);
});

test("a branch into a new chat shares nothing with the old one", () => {
  const chat = talk();
  chat.settings.temperature = 0.5;
  const made = fork(chat, "a1", "new", 99);
  assert.deepEqual(contents(made), ["one", "first"]);
  made.messages.u1.content = "changed";
  made.settings.temperature = 1;
  assert.equal(chat.messages.u1.content, "one");
  assert.equal(chat.settings.temperature, 0.5);
});

test("the title is the first question's beginning until a person gives one", () => {
  const chat = newChat("c", 0);
  assert.equal(titleOf(chat), "New chat");
  append(chat, user("u", `${"word ".repeat(30)}\nsecond line`));
  assert.ok(titleOf(chat).length <= 60);
  assert.ok(titleOf(chat).endsWith("…"));
  chat.title = "Mine";
  assert.equal(titleOf(chat), "Mine");
});

test("a search looks at titles and at every branch", () => {
  const chat = talk();
  append(chat, user("u2b", "Elsewhere"), "a1");
  show(chat, "u2");
  assert.ok(mentions(chat, "elsewhere"));
  assert.ok(!mentions(chat, "nowhere"));
});

test("a request has the system prompt, what was set and nothing else", () => {
  const chat = talk();
  assert.deepEqual(Object.keys(request(chat)).sort(), ["messages", "model"]);
  Object.assign(chat.settings, { system: " Be brief. ", temperature: 0, seed: 7, thinking: "off", model: "m:cloud" });
  const asked = request(chat);
  assert.deepEqual(asked.messages[0], { role: "system", content: "Be brief." });
  assert.equal(asked.temperature, 0);
  assert.equal(asked.seed, 7);
  assert.equal(asked.model, "m:cloud");
  assert.deepEqual(asked.chat_template_kwargs, { enable_thinking: false });
});

test("a question that was never answered is not asked again before the next one", () => {
  const chat = talk();
  append(chat, user("u3", "failed"));
  append(chat, { ...assistant("a3", ""), error: "away" });
  append(chat, user("u4", "next"));
  assert.deepEqual(asMessages(chat).map(({ content }) => content), ["one", "first", "two", "second", "next"]);
});

test("files go into the text between fences of their own, images beside it", () => {
  const chat = newChat("c", 0);
  const attachments = [
    { kind: "text", name: "a.md", text: "```js\nx\n```\n" },
    { kind: "image", name: "p.png", url: "data:image/png;base64,AA==" },
  ];
  append(chat, user("u", "look", { attachments }));
  const [{ content }] = asMessages(chat);
  assert.equal(content[0].image_url.url, "data:image/png;base64,AA==");
  assert.equal(content[1].text, "a.md:\n````\n```js\nx\n```\n````\n\nlook");
});
