// An answer while it comes in: what the chunks of its stream say, put together. Pure.

import { KINDS } from "./provenance.js";

const noCounts = () => Object.fromEntries(KINDS.map((name) => [name, 0]));

/**
 * Who wrote which part of a text: `[[source, end], ...]`, each from the end before it to its own.
 * Neighbours of one source are one run.
 */
export function addRun(runs, source, length) {
  if (!length) return;
  const last = runs[runs.length - 1];
  if (last && last[0] === source) last[1] += length;
  else runs.push([source, (last?.[1] ?? 0) + length]);
}

export class Answer {
  /** `now`: ms, when the question was sent. */
  constructor(now) {
    this.started = now;
    this.text = "";
    this.runs = [];
    this.thoughts = "";
    this.thoughtRuns = [];
    this.calls = [];
    /** Drafts that nobody has verified, after the last committed word. */
    this.grey = "";
    this.isThinking = false;
    /** `pipesd` objects of the stream, the newer over the older. */
    this.figures = {};
    this.usage = null;
    /** Tokens by their source, as they came: {at, total, drafted, looked_up, ...}; `at` in ms. */
    this.pieces = [];
    this.counts = noCounts();
    this.finish = null;
  }

  get tokens() {
    const seen = Object.values(this.counts).reduce((sum, count) => sum + count, 0);
    return this.usage?.completion_tokens ?? seen;
  }

  /** Tokens a second since the first of them; null before there are two pieces. */
  get rate() {
    const [first, last] = [this.pieces[0], this.pieces[this.pieces.length - 1]];
    if (!first || last.at <= first.at) return null;
    const seen = this.tokens - this.pieces[0].total;
    return seen > 0 ? (seen * 1000) / (last.at - first.at) : null;
  }

  take(chunk, now) {
    if (chunk.head) {
      if (chunk.head.route) this.figures = chunk.head;
      return;
    }
    const told = chunk.pipesd ?? {};
    for (const choice of chunk.choices ?? []) if (!choice.index) this.takeChoice(choice, told, now);
    if (told.provisional) this.grey = told.provisional.text;
    const { provenance, provisional, ...figures } = told;
    this.figures = { ...this.figures, ...figures };
    if (chunk.usage) this.usage = chunk.usage;
  }

  takeChoice(choice, told, now) {
    const delta = choice.delta ?? {};
    const thought = delta.reasoning ?? delta.reasoning_content ?? "";
    const words = delta.content ?? "";
    if (thought) this.isThinking = true;
    if (words) this.isThinking = false;
    const source = told.verified === false ? "unverified" : null;
    const spans = told.provenance ?? (words || thought ? [{ source, tokens: 1, text: words || thought }] : []);
    this.count(spans, now);
    if (thought) {
      this.thoughts += thought;
      this.settle(thought);
      addRun(this.thoughtRuns, spans[spans.length - 1]?.source ?? source, thought.length);
    }
    if (words) {
      this.text += words;
      this.settle(words);
      addRun(this.runs, spans[spans.length - 1]?.source ?? source, words.length);
    }
    for (const call of delta.tool_calls ?? []) this.takeCall(call);
    if (choice.finish_reason) {
      this.finish = choice.finish_reason;
      this.grey = "";
    }
  }

  /** `words` are committed: drafts that said so stay, others are void. */
  settle(words) {
    this.grey = this.grey.startsWith(words) ? this.grey.slice(words.length) : "";
  }

  takeCall({ index = 0, function: called = {} }) {
    const call = (this.calls[index] ??= { name: "", arguments: "" });
    call.name += called.name ?? "";
    call.arguments += called.arguments ?? "";
  }

  count(spans, now) {
    const counted = noCounts();
    for (const { source, tokens } of spans) {
      const name = source in counted ? source : "corrected";
      counted[name] += tokens;
      this.counts[name] += tokens;
    }
    const total = Object.values(counted).reduce((sum, count) => sum + count, 0);
    if (!total) return;
    const at = now - this.started;
    const last = this.pieces[this.pieces.length - 1];
    // What came within a millisecond came together: tokens of one pass are worded one by one.
    if (last && at - last.at < 1) {
      for (const name of Object.keys(counted)) last[name] += counted[name];
      last.total += total;
    } else {
      this.pieces.push({ at, total, ...counted });
    }
  }

  /** What is kept of it in the conversation. */
  message(id, created, model) {
    const { text, runs, thoughts, thoughtRuns, calls, figures, counts, pieces, finish } = this;
    return {
      id, role: "assistant", created, content: text, runs, thoughts, thoughtRuns, calls: calls.filter(Boolean), model, figures, counts, finish,
      tokens: this.tokens, rate: this.rate, pieces: thinned(pieces),
    };
  }
}

const MOST_PIECES = 400;

/** At most `most` pieces, neighbours put together. */
export function thinned(pieces, most = MOST_PIECES) {
  const step = Math.ceil(pieces.length / most);
  if (step <= 1) return pieces;
  const made = [];
  for (let i = 0; i < pieces.length; i += step) {
    const group = pieces.slice(i, i + step);
    const sum = { at: group[group.length - 1].at };
    for (const name of ["total", ...KINDS]) sum[name] = group.reduce((all, piece) => all + piece[name], 0);
    made.push(sum);
  }
  return made;
}
