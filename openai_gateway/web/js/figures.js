// What an answer's figures say, in words. Pure.

const FORMATS = [0, 1, 2].map((digits) => new Intl.NumberFormat("en", { maximumFractionDigits: digits }));
const number = (value, digits = 0) => FORMATS[digits].format(value);
const known = (value) => value !== null && value !== undefined && Number.isFinite(value);

/** Milliseconds as "320 ms", "4.1 s" or "2 min 5 s". */
export function duration(ms) {
  const size = Math.abs(ms);
  if (size < 1000) return `${number(ms)} ms`;
  if (size < 60_000) return `${number(ms / 1000, 1)} s`;
  const seconds = Math.round(size / 1000);
  return `${ms < 0 ? "-" : ""}${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}

/** Bytes as "812 B", "4.1 kB" or "2.3 MB". */
export function size(bytes) {
  const large = Math.abs(bytes);
  if (large < 1000) return `${number(bytes)} B`;
  return large < 1e6 ? `${number(bytes / 1000, 1)} kB` : `${number(bytes / 1e6, 1)} MB`;
}

/**
 * What the answer saved against streaming it from the same server, as rows `{name, value, good, title}`.
 * `good`: true, false for a loss, null where it is not known or nothing either way.
 */
export function savings(figures) {
  const { passes, ms, bytes } = figures.savings ?? {};
  const share = known(passes) && figures.completion_tokens ? ` (${number((100 * passes) / figures.completion_tokens)} %)` : "";
  return [
    row("Target passes", passes, (v) => `${number(v)}${share}`, "fewer", "more", "Forward passes of the big model; streaming takes one for each token."),
    row("Time", ms, duration, "sooner", "later", "Against what streaming takes for as many tokens, as measured on this server."),
    row("Traffic", bytes, size, "less", "more", "Bytes up and down to the server, against the same answer streamed from its API."),
  ];
}

function row(name, saved, shown, gained, lost, title) {
  if (!known(saved)) return { name, value: "not known", good: null, title };
  if (!saved) return { name, value: "no difference", good: null, title };
  return { name, value: `${shown(Math.abs(saved))} ${saved > 0 ? gained : lost}`, good: saved > 0, title };
}

const IN_FORCE = {
  stream: "The target streams; nothing is drafted",
  overlap: "The target decodes by itself and uses drafts that come in time",
  wait: "The target waits for drafts",
};
const ROUTES = {
  collaborative: "Drafted here, verified by the target",
  cloud: "Passed through to the server, without drafts",
  local: "The draft model alone; the target has not checked it",
};

/** What mode is in force and why, as a sentence. */
export function modeLine(figures) {
  const { route, reason, drafted, in_force: arm, in_force_reason: why } = figures;
  if (!route) return "No answer yet.";
  if (route !== "collaborative" || drafted === false) {
    const words = drafted === false && route === "collaborative" ? "The server answers without drafts" : ROUTES[route] ?? route;
    return reason && reason !== "default" && reason !== "pending" ? `${words}: ${reason.replace(/^not drafted: /, "")}.` : `${words}.`;
  }
  const words = IN_FORCE[arm] ?? ROUTES.collaborative;
  return why ? `${words}: ${why}.` : `${words}.`;
}

/** One line under an answer. */
export function summary({ tokens, rate, figures }) {
  const passes = figures?.savings?.passes;
  const ms = figures?.savings?.ms;
  return [
    known(tokens) && `${number(tokens)} ${tokens === 1 ? "token" : "tokens"}`,
    known(rate) && `${number(rate, rate < 10 ? 1 : 0)} tokens/s`,
    known(passes) && passes !== 0 && tokens && `${number((100 * Math.abs(passes)) / tokens)} % ${passes > 0 ? "fewer" : "more"} passes`,
    known(ms) && Math.abs(ms) >= 50 && `${duration(Math.abs(ms))} ${ms > 0 ? "sooner" : "later"} than streaming`,
  ].filter(Boolean).join(" · ");
}

/** Rows of everything else that is known: [name, value]. */
export function details({ tokens, rate, figures = {} }, link) {
  const rows = [
    ["Tokens", known(tokens) ? number(tokens) : null],
    ["Speed", known(rate) ? `${number(rate, 1)} tokens/s` : null],
    ["First token", known(figures.ttft_ms) ? duration(figures.ttft_ms) : null],
    ["Drafts accepted", known(figures.acceptance_rate) ? `${number(100 * figures.acceptance_rate)} %` : null],
    ["Passes per token", known(figures.passes_per_token) ? number(figures.passes_per_token, 2) : null],
    ["Link round trip", known(link) ? duration(link) : null],
    ["Seed", known(figures.seed) ? String(figures.seed) : null],
  ];
  return rows.filter(([, value]) => value !== null);
}
