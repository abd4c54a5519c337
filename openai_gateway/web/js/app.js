// The page: what happens when something is asked, opened, changed.

import { Answer } from "./answer.js";
import { Announcer } from "./announcer.js";
import { append, fork, newChat, path, request, show, siblings, titleOf, withdraw } from "./chat.js";
import { Composer } from "./composer.js";
import { by, paced } from "./dom.js";
import { Gateway } from "./gateway.js";
import { Inspector } from "./inspector.js";
import { Log } from "./log.js";
import { keepPage, key, noteDefaults, page, Settings } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { openStore } from "./store.js";
import { exported, imported } from "./transfer.js";

const POLL_MS = 10_000;
const POLL_AWAY_MS = 2_000;
const TOAST_MS = 8_000;
const FIGURES_MS = 150;
const LAST_MODEL = "pipesd-model";

const newId = () => crypto.randomUUID();
const wide = matchMedia("(min-width: 75rem)");
const roomy = matchMedia("(min-width: 52rem)");

const gateway = new Gateway(key);
const opening = openStore(() => showTitles());
const announcer = new Announcer(by("announcer"));
const inspector = new Inspector(by("inspector"), by("facts"));
const sidebar = new Sidebar(by("chats"), by("no-chats"), { open: openChat, rename, remove });
const log = new Log(by("log"), by("to-end"), { edit, again, fork: forkAt, show: showVersion, inspect }, () => page.tint);
const composer = new Composer(ask, stop, toast);
const settings = new Settings(() => chat.settings, () => keep(chat), onPageChange);

let chat = begun();
/** The answer that comes in: {chat, id, answer, controller, view, question}; null: none. */
let running = null;
/** Id of the message whose figures are shown; null: the last one. */
let inspected = null;
let link = null;
let lastServed = null;

function begun() {
  const model = localStorage.getItem(LAST_MODEL);
  return newChat(newId(), Date.now(), model ? { model } : {});
}

// -- asking -----------------------------------------------------------------------------------------

function ask(words, attachments) {
  const question = { id: newId(), role: "user", created: Date.now(), content: words, ...(attachments.length ? { attachments } : {}) };
  append(chat, question);
  answer();
}

function edit(id, words) {
  stop();
  const { parent, attachments } = chat.messages[id];
  append(chat, { id: newId(), role: "user", created: Date.now(), content: words, ...(attachments ? { attachments } : {}) }, parent);
  answer();
}

function again(id) {
  stop();
  chat.leaf = chat.messages[id].parent;
  answer();
}

/** Has the open chat's last message answered. */
async function answer() {
  const mine = { chat, id: newId(), answer: new Answer(performance.now()), controller: new AbortController(), question: chat.messages[chat.leaf] };
  const model = by("model").selectedOptions[0]?.textContent ?? "";
  running = mine;
  inspected = null;
  showTurns();
  mine.view = log.begin({ id: mine.id, role: "assistant", content: "", model, isLive: true });
  composer.setBusy(true);
  by("log").setAttribute("aria-busy", "true");
  announcer.begin();
  keep(mine.chat).then(showTitles);
  const draw = paced(() => drawRunning(mine));
  const ticking = setInterval(draw, 200);
  draw();
  const sent = request(mine.chat);
  const end = {};
  try {
    const options = { signal: mine.controller.signal, mode: mine.chat.settings.mode, drafts: page.drafts };
    for await (const chunk of gateway.ask(sent, options)) {
      mine.answer.take(chunk, performance.now());
      draw();
    }
  } catch (error) {
    if (error.name === "AbortError") end.note = "Stopped.";
    else if ("status" in error) end.error = error.message;
    else throw error;
    if (error.status === 401 && running === mine) settings.open("key");
  } finally {
    clearInterval(ticking);
    finish(mine, model, sent, end);
  }
}

function drawRunning(mine) {
  if (running !== mine) return;
  const { answer: at, view } = mine;
  view.update({ ...at, id: mine.id, role: "assistant", content: at.text, calls: at.calls, isLive: true }, page.tint);
  announcer.tell(at.text);
  drawFigures(mine);
  log.follow();
}

function drawFigures(mine) {
  const { answer: at } = mine;
  const now = performance.now();
  if (inspected !== null || by("inspector").hidden || now - (mine.figuresAt ?? 0) < FIGURES_MS) return;
  mine.figuresAt = now;
  inspector.show({ ...at, content: at.text, tokens: at.tokens, rate: at.rate }, link, now - at.started);
}

/** What there is of an answer stays in its chat; a question that was stopped before any goes back to the field. */
function finish(mine, model, sent, end) {
  const { answer: at, chat: of } = mine;
  const message = { ...at.message(mine.id, Date.now(), model), ...end };
  const isShown = running === mine && of === chat;
  const isEmpty = !at.text && !at.thoughts && !at.calls.length;
  const { leaf } = of;
  if (end.note && isEmpty) {
    if (Object.values(of.messages).some(({ parent }) => parent === mine.question.id)) show(of, mine.question.id);
    else if (running?.question !== mine.question || running === mine) {
      withdraw(of, mine.question.id);
      if (isShown && composer.isEmpty) composer.restore(mine.question.content, mine.question.attachments ?? []);
    }
  } else {
    append(of, message, mine.question.id);
    noteDefaults(sent.model, at.figures.sampling, sent);
  }
  if (running !== mine && running?.chat === of) of.leaf = leaf; // it has moved on
  if (Object.keys(of.messages).length) keep(of).then(showTitles);
  else opening.then((store) => store.remove(of.id)).then(showTitles);
  if (running !== mine) return;
  running = null;
  composer.setBusy(false);
  by("log").setAttribute("aria-busy", "false");
  showTurns();
  log.follow();
  announcer.end(at.text, end.error ?? end.note ?? "The answer is complete.");
  inspect(null);
  poll();
}

function stop() {
  const stopped = running;
  if (!stopped) return;
  stopped.controller.abort();
}

/** Nothing of a running answer stays on the page; what came of it stays in its chat. */
function leave() {
  const left = running;
  running = null;
  left?.controller.abort();
  if (!left) return;
  composer.setBusy(false);
  by("log").setAttribute("aria-busy", "false");
  announcer.begin();
}

// -- the shown chat ---------------------------------------------------------------------------------

function showTurns() {
  const turns = path(chat).map((message) => {
    const ids = siblings(chat, message.id).map((each) => each.id);
    return [message, { ids, index: ids.indexOf(message.id) }];
  });
  log.show(turns);
  by("log").classList.toggle("empty", !turns.length);
  document.title = turns.length ? `${titleOf(chat)} · PipeSD` : "PipeSD";
}

async function openChat(id) {
  const found = await (await opening).get(id);
  if (found) openThis(found);
}

function openThis(opened) {
  leave();
  chat = opened;
  inspected = null;
  showTurns();
  log.scrollToEnd();
  showModel();
  inspect(null);
  showTitles();
  if (!roomy.matches) toggleSidebar(false);
  composer.prompt.focus();
}

function showVersion(id) {
  if (running) return;
  show(chat, id);
  showTurns();
  keep(chat);
  log.view(id)?.article.scrollIntoView({ block: "nearest" });
  log.view(id)?.article.querySelector(".pager button:not([disabled])")?.focus();
}

async function forkAt(id) {
  const made = fork(chat, id, newId(), Date.now());
  await (await opening).put(made);
  openThis(made);
}

// -- the list of chats ------------------------------------------------------------------------------

/** Ids of chats that were deleted while an answer of theirs was coming in. */
const deleted = new Set();

async function keep(kept) {
  if (!Object.keys(kept.messages).length || deleted.has(kept.id)) return;
  await (await opening).put(kept).catch(() => toast("This browser could not keep the chat: its storage is full or switched off."));
}

async function showTitles() {
  const words = by("search").value.trim();
  const titles = await (await opening)[words ? "search" : "titles"](words);
  if (words === by("search").value.trim()) sidebar.show(titles, chat.id, Boolean(words));
}

async function rename(id, title) {
  const found = id === chat.id ? chat : await (await opening).get(id);
  if (!found) return;
  found.title = title;
  await keep(found);
  showTurns();
  showTitles();
}

async function remove(id) {
  const removed = await (await opening).get(id);
  deleted.add(id);
  if (id === chat.id) {
    leave();
    openThis(begun());
  }
  await (await opening).remove(id);
  showTitles();
  if (removed) toast(`"${titleOf(removed)}" was deleted.`, "Undo", () => {
    deleted.delete(id);
    keep(removed).then(showTitles);
  });
}

function download(chats, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(new Blob([exported(chats)], { type: "application/json" })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function importFile(file) {
  try {
    const chats = imported(await file.text(), newId, Date.now());
    for (const each of chats) await (await opening).put(each);
    toast(`${chats.length} ${chats.length === 1 ? "chat was" : "chats were"} imported.`);
  } catch (error) {
    toast(error.message);
  }
  showTitles();
}

// -- the gateway's state ----------------------------------------------------------------------------

let polling = 0;

async function poll() {
  clearTimeout(polling);
  let health = null;
  try {
    health = await gateway.health();
  } catch {
    showState("the gateway does not answer", "gone");
  }
  if (health) {
    const words = [health.status === "ok" ? "ready" : "server out of reach", health.draft && health.draft !== "none" ? `draft: ${health.draft}` : "no draft model"];
    showState(words.join(" · "), health.status === "ok" ? "ok" : "degraded");
    link = health.link_rtt_ms === undefined ? null : Number(health.link_rtt_ms);
  }
  const served = health && JSON.stringify([health.status, health.targets]);
  if (health && (health.status === "ok" || served !== lastServed || by("model").options.length < 2)) await loadModels();
  lastServed = served;
  polling = setTimeout(poll, document.hidden || health?.status === "ok" ? POLL_MS : POLL_AWAY_MS);
}

function showState(words, name) {
  if (by("state-words").textContent !== words) by("state-words").textContent = words;
  by("state").className = name;
}

const ROUTES = { cloud: "no drafts", local: "draft model alone" };

async function loadModels() {
  try {
    const names = (await gateway.models()).map((card) => card.id);
    if (names.join("\n") === [...by("model").options].map((option) => option.value).join("\n")) return; // it may be open
    by("model").replaceChildren(...names.map((name) => {
      const route = names.includes(name.replace(/:\w+$/, "")) && ROUTES[name.match(/:(\w+)$/)?.[1]];
      return new Option(route ? `${name.replace(/:\w+$/, "")} · ${route}` : name, name);
    }));
    showModel();
  } catch (error) {
    if (error.status === 401 && !key()) toast("The gateway wants an API key.", "Enter it", () => settings.open("key"));
  }
}

function showModel() {
  const { model } = chat.settings;
  const names = [...by("model").options].map((option) => option.value);
  by("model").value = names.includes(model) ? model : names[0];
}

// -- panels -----------------------------------------------------------------------------------------

/** Shows the figures of message `id`, of the last answer with null. */
function inspect(id) {
  inspected = id;
  const last = path(chat).findLast((message) => message.role === "assistant");
  if (id !== null) toggleInspector(true);
  if (id !== null || !running) inspector.show((id && chat.messages[id]) || last || null, link);
}

function toggleInspector(isOpen) {
  by("inspector").hidden = !isOpen;
  by("open-inspector").setAttribute("aria-expanded", String(isOpen));
  document.body.classList.toggle("with-inspector", isOpen);
  if (running && isOpen) drawFigures(running);
}

function toggleSidebar(isOpen) {
  document.body.classList.toggle("with-sidebar", isOpen);
  by("open-sidebar").setAttribute("aria-expanded", String(isOpen));
  by("sidebar").inert = !isOpen;
  by("chat").inert = isOpen && !roomy.matches;
  by("scrim").hidden = !isOpen || roomy.matches;
}

let toasting = 0;

function toast(words, action, onaction) {
  clearTimeout(toasting);
  by("toast").replaceChildren(words);
  if (action) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: action });
    button.addEventListener("click", () => {
      by("toast").replaceChildren();
      onaction();
    });
    by("toast").append(button);
  }
  toasting = setTimeout(() => by("toast").replaceChildren(), TOAST_MS);
}

function onPageChange() {
  log.refresh();
  poll();
  loadModels();
}

by("new").addEventListener("click", () => openThis(begun()));
by("search").addEventListener("input", showTitles);
by("export").addEventListener("click", async () => download(await (await opening).all(), "pipesd-chats.json"));
by("import").addEventListener("click", () => by("import-file").click());
by("import-file").addEventListener("change", () => {
  const [file] = by("import-file").files;
  by("import-file").value = "";
  if (file) importFile(file);
});
by("model").addEventListener("change", () => {
  chat.settings.model = by("model").value;
  localStorage.setItem(LAST_MODEL, by("model").value);
  keep(chat);
});
by("open-settings").addEventListener("click", () => settings.open());
by("open-inspector").addEventListener("click", () => {
  toggleInspector(by("inspector").hidden);
  keepPage({ inspector: !by("inspector").hidden });
});
by("close-inspector").addEventListener("click", () => {
  toggleInspector(false);
  keepPage({ inspector: false });
  by("open-inspector").focus();
});
by("open-sidebar").addEventListener("click", () => {
  const isOpen = !document.body.classList.contains("with-sidebar");
  toggleSidebar(isOpen);
  if (isOpen) by("new").focus();
});
for (const name of ["close-sidebar", "scrim"]) {
  by(name).addEventListener("click", () => {
    toggleSidebar(false);
    by("open-sidebar").focus();
  });
}
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.defaultPrevented || by("settings").open) return;
  if (!roomy.matches && document.body.classList.contains("with-sidebar")) toggleSidebar(false);
  else if (running && event.target.tagName !== "SELECT") stop();
  else if (!wide.matches && !by("inspector").hidden) by("close-inspector").click();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) poll();
});
roomy.addEventListener("change", () => toggleSidebar(roomy.matches));

toggleSidebar(roomy.matches);
toggleInspector(page.inspector ?? wide.matches);
showTurns();
showTitles();
poll();
composer.prompt.focus();
