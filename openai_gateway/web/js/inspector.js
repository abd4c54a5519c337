// The panel that says how an answer is, or was, made.

import { element } from "./dom.js";
import { details, modeLine, savings } from "./figures.js";
import { legend, showPipeline } from "./pipeline.js";
import { SOURCES } from "./provenance.js";

const MOST_RUNS = 200;

export class Inspector {
  constructor(box, facts) {
    this.box = box;
    this.mode = element("p", { id: "mode-line" });
    this.savings = element("dl", { id: "savings" });
    this.pipeline = element("div", { id: "pipeline" });
    this.legend = element("div");
    this.details = element("dl", { id: "tiles" });
    this.runs = element("ol", { class: "runs" });
    this.runsBox = element("details", { ontoggle: () => this.showRuns() }, element("summary", {}, "Text by who wrote it"), this.runs);
    this.shown = null;
    this.rest = [
      element("section", {}, element("h3", {}, "Saved against streaming"), this.savings),
      element("section", {}, element("h3", {}, "Pipeline"), this.pipeline, this.legend, this.runsBox),
      element("section", {}, element("h3", {}, "Figures"), this.details),
    ];
    facts.append(element("section", {}, element("h3", {}, "Mode"), this.mode), ...this.rest);
    this.show(null, null);
  }

  /** `answer`: a message, or an answer that comes in with its age `now` in ms; null: none. `link` in ms. */
  show(answer, link, now = null) {
    const figures = answer?.figures ?? {};
    this.shown = answer;
    text(this.mode, modeLine(figures));
    for (const section of this.rest) section.hidden = !answer;
    const counted = { ...figures, completion_tokens: answer?.tokens };
    this.savings.replaceChildren(...(answer ? savings(counted) : []).map(saved));
    if (answer) showPipeline(this.pipeline, answer.pieces ?? [], now);
    else this.pipeline.replaceChildren();
    this.legend.replaceChildren(legend(answer?.counts ?? {}));
    this.runsBox.hidden = !answer?.runs?.length;
    if (now === null) this.showRuns();
    this.details.replaceChildren(...details(answer ?? { figures }, link).map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
  }

  /** The answer's words as a list, for who cannot see a tint. */
  showRuns() {
    if (!this.runsBox.open || !this.shown) {
      this.runs.replaceChildren();
      return;
    }
    let start = 0;
    const items = (this.shown.runs ?? []).slice(0, MOST_RUNS).map(([name, end]) => {
      const words = this.shown.content.slice(start, end);
      start = end;
      return element("li", {}, element("span", { class: `key ${name ?? ""}` }, SOURCES[name]?.name ?? "text"), ` ${words}`);
    });
    this.runs.replaceChildren(...items);
  }
}

function saved({ name, value, good, title }) {
  const kind = good === null ? "" : good ? "gain" : "loss";
  return element("div", { class: kind, title }, element("dt", {}, name), element("dd", {}, value), element("dd", { class: "soft" }, title));
}

function text(node, words) {
  if (node.textContent !== words) node.textContent = words;
}
