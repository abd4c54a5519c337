// A conversation as a tree: an edited question or an answer made anew is a sibling, not a replacement.
//
// A chat: {version, id, title, created, updated, settings, messages, leaf}. `messages` by id: {id, parent, role,
// content, created, ...}; the shown conversation is the path from the root to `leaf`. Plain data, so that it can
// be stored and exported as it is. Every function that changes a chat says so.

export const VERSION = 1;
const LONGEST_TITLE = 60;

export function newChat(id, now, settings = {}) {
  return { version: VERSION, id, title: "", created: now, updated: now, settings, messages: {}, leaf: null };
}

/** The shown messages, oldest first. */
export function path(chat, leaf = chat.leaf) {
  const found = [];
  for (let at = leaf; at !== null && at !== undefined; at = chat.messages[at]?.parent) {
    if (!chat.messages[at]) break;
    found.push(chat.messages[at]);
  }
  return found.reverse();
}

/** Messages in the place of message `id`, itself among them, oldest first. */
export function siblings(chat, id) {
  const { parent } = chat.messages[id];
  return Object.values(chat.messages).filter((message) => message.parent === parent).sort((a, b) => a.created - b.created);
}

/** Changes `chat`: adds `message` below `parent` and shows it. */
export function append(chat, message, parent = chat.leaf) {
  chat.messages[message.id] = { ...message, parent };
  chat.leaf = message.id;
  chat.updated = Math.max(chat.updated, message.created);
  return chat.messages[message.id];
}

/** Changes `chat`: shows message `id` and, below it, what was added last. */
export function show(chat, id) {
  let leaf = id;
  for (;;) {
    const below = Object.values(chat.messages).filter((message) => message.parent === leaf);
    if (!below.length) break;
    leaf = below.reduce((a, b) => (b.created >= a.created ? b : a)).id;
  }
  chat.leaf = leaf;
}

/** Changes `chat`: takes away message `id`, which has nothing below it; its parent is shown instead. */
export function withdraw(chat, id) {
  const { parent } = chat.messages[id];
  delete chat.messages[id];
  if (chat.leaf !== id) return;
  const left = Object.values(chat.messages).filter((message) => message.parent === parent);
  chat.leaf = parent;
  if (left.length) show(chat, left[left.length - 1].id);
}

/** A new chat that begins with the conversation up to message `id`. */
export function fork(chat, id, newId, now) {
  const made = newChat(newId, now, structuredClone(chat.settings));
  for (const message of path(chat, id)) made.messages[message.id] = structuredClone(message);
  made.leaf = id;
  made.title = `${titleOf(chat)} (branch)`;
  return made;
}

/** The name a person gave the chat, or the beginning of its first question. */
export function titleOf(chat) {
  if (chat.title) return chat.title;
  const first = path(chat).find((message) => message.role === "user") ?? Object.values(chat.messages)[0];
  const words = (first?.content ?? "").trim().split("\n")[0];
  if (!words) return first?.attachments?.length ? first.attachments[0].name : "New chat";
  return words.length > LONGEST_TITLE ? `${words.slice(0, LONGEST_TITLE - 1).trimEnd()}…` : words;
}

/** Whether `words`, in lower case, stand in the title or in any message, on any branch. */
export function mentions(chat, words) {
  return titleOf(chat).toLowerCase().includes(words) || Object.values(chat.messages).some((message) => (message.content ?? "").toLowerCase().includes(words));
}

/** What the model is asked to continue: OpenAI's `messages` for the path up to `leaf`, unanswered questions left out. */
export function asMessages(chat, leaf = chat.leaf) {
  const shown = path(chat, leaf);
  const isEmpty = (message) => message?.role === "assistant" && !message.content;
  const said = shown.filter((message, i) => !isEmpty(message) && !(message.role === "user" && isEmpty(shown[i + 1])));
  const messages = said.map((message) => ({ role: message.role, content: contentOf(message) }));
  const system = (chat.settings.system ?? "").trim();
  return system ? [{ role: "system", content: system }, ...messages] : messages;
}

function contentOf(message) {
  const attachments = message.attachments ?? [];
  const files = attachments.filter((each) => each.kind === "text").map(inFence);
  const text = [...files, message.content].filter(Boolean).join("\n\n");
  const images = attachments.filter((each) => each.kind === "image");
  if (!images.length) return text;
  return [...images.map((image) => ({ type: "image_url", image_url: { url: image.url } })), { type: "text", text }];
}

/** A file between fences that are longer than any in it. */
function inFence({ name, text }) {
  const longest = Math.max(2, ...[...text.matchAll(/`{3,}/g)].map(([run]) => run.length));
  const fence = "`".repeat(longest + 1);
  return `${name}:\n${fence}\n${text.replace(/\n$/, "")}\n${fence}`;
}

const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed"];

/** The request for the answer after `leaf`: what a person did not set is left to the target. */
export function request(chat, leaf = chat.leaf) {
  const { settings } = chat;
  const set = NUMBERS.filter((name) => Number.isFinite(settings[name])).map((name) => [name, settings[name]]);
  const thinking = settings.thinking ? { chat_template_kwargs: { enable_thinking: settings.thinking === "on" } } : {};
  return { model: settings.model || "default", messages: asMessages(chat, leaf), ...Object.fromEntries(set), ...thinking };
}
