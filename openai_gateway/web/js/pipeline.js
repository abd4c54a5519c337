// The pipeline of an answer: what came when, and who had written it.

import { drawn, element } from "./dom.js";
import { KINDS, SOURCES } from "./provenance.js";

const BINS = 80;

/** `pieces` as `num` equal parts of the time up to `end` (ms): counts by kind. Pure. */
export function binned(pieces, end, num = BINS) {
  const bins = Array.from({ length: num }, () => ({ total: 0, ...Object.fromEntries(KINDS.map((name) => [name, 0])) }));
  for (const piece of pieces) {
    const bin = bins[Math.min(num - 1, Math.floor((piece.at / end) * num))];
    for (const name of KINDS) bin[name] += piece[name] ?? 0;
    bin.total += piece.total ?? 0;
  }
  return bins;
}

/** Draws into `box`; `now`: ms since the question, while the answer comes in. */
export function showPipeline(box, pieces, now = null) {
  if (!pieces.length) {
    box.replaceChildren(element("p", { class: "soft" }, now === null ? "No tokens." : "Waiting for the first token."));
    return;
  }
  const width = 320, height = 118, floor = 94, left = 2;
  const end = Math.max(now ?? 0, pieces[pieces.length - 1].at, 1);
  const bins = binned(pieces, end);
  const most = Math.max(...bins.map((bin) => bin.total), 1);
  const step = (width - 2 * left) / bins.length;
  const total = pieces.reduce((sum, piece) => sum + piece.total, 0);
  const words = `${total} tokens in ${(end / 1000).toFixed(2)} s, the first after ${Math.round(pieces[0].at)} ms`;
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": words });
  const wait = Math.max((pieces[0].at / end) * (width - 2 * left), 0);
  svg.append(drawn("rect", { class: "bar-wait", x: left, y: floor - 4, width: wait, height: 4 }));
  bins.forEach((bin, i) => {
    let y = floor;
    for (const name of KINDS) {
      if (!bin[name]) continue;
      const tall = (bin[name] / most) * (floor - 6);
      y -= tall;
      svg.append(drawn("rect", { class: `bar-${name}`, x: left + i * step, y, width: Math.max(step - 0.6, 0.8), height: tall }));
    }
  });
  svg.append(drawn("line", { class: "axis", x1: left, y1: floor + 0.5, x2: width - left, y2: floor + 0.5 }));
  for (const [share, anchor] of [[0, "start"], [0.5, "middle"], [1, "end"]]) {
    svg.append(drawn("text", { x: left + share * (width - 2 * left), y: floor + 15, "text-anchor": anchor }, `${((end * share) / 1000).toFixed(2)} s`));
  }
  box.replaceChildren(svg, element("p", { class: "soft" }, words));
}

/** The kinds that an answer has, with their counts. */
export function legend(counts) {
  const items = KINDS.filter((name) => counts[name]).map((name) =>
    element("li", {}, element("span", { class: `key ${name}` }, SOURCES[name].name), element("span", { class: "count" }, String(counts[name])), element("span", { class: "soft" }, SOURCES[name].words)));
  return element("ul", { class: "legend", "aria-label": "Tokens by who wrote them" }, ...items);
}
