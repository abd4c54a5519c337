// The conversation: what is asked of the gateway and what is done with its answer.

import { addError, addNote, addText, addThoughts, showGantt, showTiles, turn } from "./view.js";

const by = (id) => document.getElementById(id);
const log = by("log"), prompt = by("prompt"), send = by("send"), stop = by("stop");
const tiles = by("tiles"), gantt = by("gantt"), caption = by("gantt-caption"), state = by("state");
const KEY = "pipesd-key";

let messages = [];
let running = null;
let link = null;
let last = null;

by("key").value = sessionStorage.getItem(KEY) ?? "";

function headers() {
  const key = by("key").value.trim();
  return {
    "content-type": "application/json",
    "x-pipesd-provenance": "1",
    ...(key ? { authorization: `Bearer ${key}` } : {}),
    ...(by("mode").value ? { "x-pipesd-mode": by("mode").value } : {}),
  };
}

/** An error of the gateway as a sentence for a person. */
function inWords(status, error) {
  if (status === 401) {
    by("key-field").hidden = false;
    by("key").focus();
    return "The gateway wants an API key: enter it at the top of the page, then send again.";
  }
  const words = error?.message ?? `The gateway answered with HTTP status ${status}.`;
  if (status === 429) return `The server is busy: ${words} Try again in a moment.`;
  if (status === 503) return `The server is out of reach: ${words}`;
  return words;
}

async function readError(response) {
  try {
    return inWords(response.status, (await response.json()).error);
  } catch {
    return inWords(response.status);
  }
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      if (data && data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

/** One answer while it comes in. */
class Incoming {
  constructor() {
    Object.assign(this, turn(log, "assistant", by("model").selectedOptions[0].textContent));
    this.text.classList.add("busy");
    this.words = "";
    this.pieces = [];
    this.tokens = 0;
    this.figures = {};
    this.started = performance.now();
  }

  take(chunk) {
    const extension = chunk.pipesd ?? {};
    for (const choice of chunk.choices ?? []) this.takeDelta(choice.delta ?? {}, extension);
    if (extension.route) this.figures = extension;
    if (chunk.usage) this.tokens = chunk.usage.completion_tokens;
    this.show();
  }

  takeDelta(delta, extension) {
    const near = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
    const thought = delta.reasoning ?? delta.reasoning_content;
    if (thought) addThoughts(this, thought);
    const piece = delta.content;
    if (!piece) return;
    this.words += piece;
    const unverified = extension.verified === false ? "unverified" : null;
    const spans = extension.provenance ?? [{ source: unverified, tokens: 1, text: piece }];
    for (const span of spans) if (span.text) addText(this.text, span.text, span.source);
    this.pieces.push({ at: performance.now() - this.started, spans });
    this.tokens += spans.reduce((sum, span) => sum + span.tokens, 0);
    if (near) log.scrollTop = log.scrollHeight;
  }

  /** Figures as of now; the gateway's own come with the last chunk. */
  show() {
    const first = this.pieces[0]?.at ?? null;
    const last = this.pieces[this.pieces.length - 1]?.at ?? null;
    const live = { tokens: this.tokens, ttft_ms: first, tpt_ms: last === null ? null : last / Math.max(this.tokens, 1) };
    showTiles(tiles, { ...live, ...this.figures }, link);
  }

  end() {
    const near = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
    this.text.classList.remove("busy");
    this.show();
    showGantt(gantt, caption, this.pieces);
    if (near) log.scrollTop = log.scrollHeight; // the pipeline takes room on a narrow screen
    const { verified, unverified_tokens: unverified } = this.figures;
    if (verified === false) {
      addNote(this.article, unverified
        ? `${unverified} tokens of this answer are the draft model's own; the target has not checked them.`
        : "The target has not checked this answer.");
    }
  }
}

async function ask(words) {
  const history = messages; // "New chat" starts another one
  turn(log, "user", "You", words);
  history.push({ role: "user", content: words });
  running = new AbortController();
  const answer = new Incoming();
  last = answer;
  setBusy(true);
  try {
    await stream(answer, history);
    history.push({ role: "assistant", content: answer.words });
  } catch (error) {
    failed(answer, history, error);
  } finally {
    answer.end();
    running = null;
    setBusy(false);
    refresh();
  }
}

async function stream(answer, history) {
  const response = await fetch("/v1/chat/completions", {
    method: "POST",
    headers: headers(),
    signal: running.signal,
    body: JSON.stringify({ model: by("model").value, messages: history, stream: true, stream_options: { include_usage: true } }),
  });
  if (!response.ok) throw new Error(await readError(response), { cause: "gateway" });
  sessionStorage.setItem(KEY, by("key").value.trim());
  const [route, ...reason] = (response.headers.get("x-pipesd-route") ?? "").split("; reason=");
  answer.figures = route ? { route, reason: reason.join("") } : {};
  for await (const chunk of events(response)) {
    if (chunk.error) throw new Error(inWords(chunk.error.code === "cloud_unreachable" ? 503 : 0, chunk.error), { cause: "gateway" });
    answer.take(chunk);
  }
}

/** What there is of an answer stays in the conversation; a question without any is put back. */
function failed(answer, history, error) {
  const stopped = error.name === "AbortError";
  if (answer.words) {
    history.push({ role: "assistant", content: answer.words });
  } else {
    const question = history.pop();
    if (!stopped && !prompt.value) prompt.value = question.content;
  }
  if (stopped) addNote(answer.article, "Stopped.");
  else if (error.cause === "gateway") addError(answer.article, error.message);
  else addError(answer.article, "The connection to the gateway was lost. Is it still running?");
}

function setBusy(busy) {
  send.hidden = busy;
  stop.hidden = !busy;
  log.setAttribute("aria-busy", String(busy));
  if (!busy && document.activeElement === document.body) prompt.focus();
}

/** The names under which the gateway serves its model, and how the link is. */
async function refresh() {
  try {
    const health = await (await fetch("/health")).json();
    state.textContent = [health.status === "ok" ? "ready" : "server out of reach", health.draft && `draft: ${health.draft}`].filter(Boolean).join(" · ");
    state.className = health.status;
    link = health.link_rtt_ms ?? null;
    if (last) last.show();
    else showTiles(tiles, {}, link);
  } catch {
    state.textContent = "the gateway does not answer";
    state.className = "degraded";
  }
}

async function loadModels() {
  const response = await fetch("/v1/models", { headers: headers() });
  by("key-field").hidden = response.status !== 401 && !by("key").value;
  if (!response.ok) return;
  const names = (await response.json()).data.map((card) => card.id);
  const chosen = by("model").value;
  by("model").replaceChildren(...names.map((name) => new Option(name, name)));
  if (names.includes(chosen)) by("model").value = chosen;
}

by("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const words = prompt.value.trim();
  if (!words || running) return;
  prompt.value = "";
  ask(words);
});
prompt.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  by("composer").requestSubmit();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});
stop.addEventListener("click", () => {
  running?.abort();
  prompt.focus();
});
by("new").addEventListener("click", () => {
  running?.abort();
  messages = [];
  last = null;
  log.replaceChildren();
  showGantt(gantt, caption, []);
  caption.textContent = "Pipeline of the last answer";
  showTiles(tiles, {}, link);
  prompt.focus();
});
by("settings").addEventListener("submit", (event) => event.preventDefault());
by("key").addEventListener("change", () => loadModels().catch(() => {}));

showTiles(tiles, {}, link);
refresh();
loadModels().catch(() => {});
prompt.focus();
