// What is drawn: turns, tiles, the pipeline. Nothing here talks to the gateway.

const SVG = "http://www.w3.org/2000/svg";
const SOURCES = {
  drafted: "a draft that the target accepted",
  looked_up: "a draft looked up in the text or in files of this machine, which the target accepted",
  corrected: "the target's own choice",
  unverified: "the draft model's own, not verified",
};

export function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** A turn of the conversation; `text` is where its words go. */
export function turn(log, role, name, words = "") {
  const article = element("article", `turn ${role}`);
  article.append(element("h2", "", name));
  const text = element("div", "text", words);
  article.append(text);
  log.append(article);
  log.scrollTop = log.scrollHeight;
  return { article, text };
}

/** Adds `piece` of an answer; neighbours of one source share an element. */
export function addText(text, piece, source) {
  const last = text.lastElementChild;
  const name = source && SOURCES[source] ? source : "";
  if (last && last.className === name) {
    last.append(piece);
    return;
  }
  const span = element("span", name, piece);
  if (name) span.title = SOURCES[name];
  text.append(span);
}

/** Thoughts stand before the answer. */
export function addThoughts(answer, piece) {
  if (!answer.thoughts) {
    answer.thoughts = element("div", "thinking");
    answer.text.before(answer.thoughts);
  }
  answer.thoughts.append(piece);
}

export function addError(article, words) {
  const box = element("p", "error", words);
  box.setAttribute("role", "alert");
  article.append(box);
  box.scrollIntoView({ block: "nearest" });
}

export function addNote(article, words) {
  article.append(element("p", "note", words));
}

function shown(value, digits) {
  return value === null || value === undefined ? null : Number(value).toFixed(digits);
}

/** The tiles of what is known so far; `figures` is the extension object `pipesd`. */
export function showTiles(list, figures, link) {
  const rate = figures.acceptance_rate;
  const tiles = [
    ["Time per token", shown(figures.tpt_ms, 1), "ms"],
    ["First token", shown(figures.ttft_ms, 0), "ms"],
    ["Acceptance", rate === null || rate === undefined ? null : shown(rate * 100, 0), "%"],
    ["Passes per token", shown(figures.passes_per_token, 2), ""],
    ["Link round trip", shown(link, 1), "ms"],
    ["Tokens", figures.tokens ?? null, ""],
  ];
  list.replaceChildren(...tiles.map(([name, value, unit]) => tile(name, value, unit)));
  const route = figures.route ? figures.route : null;
  const why = figures.reason && figures.reason !== "default" ? figures.reason : "";
  const wide = tile("Route", route, why ? `(${why})` : "");
  wide.className = "wide";
  list.append(wide);
}

function tile(name, value, unit) {
  const box = element("div");
  const number = element("dd", "", value === null ? "–" : String(value));
  if (value !== null && unit) number.append(" ", element("small", "", unit));
  box.append(element("dt", "", name), number);
  return box;
}

function drawn(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/**
 * The last answer on a time axis: the wait for the first piece, then one bar for each piece, as long
 * as it took and as high as it has tokens, coloured by where they come from.
 * `pieces`: [{at, spans: [{source, tokens}]}], `at` in ms since the question was sent.
 */
export function showGantt(box, caption, pieces) {
  if (!pieces.length) {
    box.replaceChildren();
    return;
  }
  const width = 320, height = 128, left = 4, top = 6, floor = 104;
  const end = Math.max(pieces[pieces.length - 1].at, 1);
  const counts = pieces.map((piece) => piece.spans.reduce((sum, span) => sum + span.tokens, 0));
  const most = Math.max(...counts, 1);
  const x = (at) => left + (at / end) * (width - 2 * left);
  const unit = (floor - top) / most;
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  const total = counts.reduce((sum, count) => sum + count, 0);
  const title = `${total} tokens in ${pieces.length} pieces, ${(end / 1000).toFixed(2)} s`;
  svg.append(drawn("title", {}, title));
  svg.append(bar("bar-wait", x(0), floor - 6, x(pieces[0].at) - x(0), 6, `first piece after ${Math.round(pieces[0].at)} ms`));
  let before = pieces[0].at;
  pieces.forEach((piece, index) => {
    // The first piece came in one go: a sliver at its moment.
    const from = index ? x(before) : x(piece.at) - 1.5;
    let y = floor;
    for (const span of piece.spans) {
      const tall = span.tokens * unit;
      y -= tall;
      const words = `${span.tokens} ${span.tokens === 1 ? "token" : "tokens"}: ${SOURCES[span.source] ?? "text"}`;
      svg.append(bar(`bar-${SOURCES[span.source] ? span.source : "wait"}`, from, y, Math.max(x(piece.at) - from - 0.4, 0.8), tall, words));
    }
    before = piece.at;
  });
  svg.append(drawn("line", { class: "axis", x1: left, y1: floor + 0.5, x2: width - left, y2: floor + 0.5 }));
  for (const share of [0, 0.5, 1]) {
    const anchor = share === 0 ? "start" : share === 1 ? "end" : "middle";
    svg.append(drawn("text", { x: x(end * share), y: floor + 15, "text-anchor": anchor }, `${((end * share) / 1000).toFixed(2)} s`));
  }
  caption.textContent = `Pipeline of the last answer: ${title}`;
  box.replaceChildren(svg);
}

function bar(kind, x, y, width, height, words) {
  const made = drawn("rect", { class: kind, x, y, width: Math.max(width, 0), height });
  made.append(drawn("title", {}, words));
  return made;
}
