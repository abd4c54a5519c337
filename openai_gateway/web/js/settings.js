// The settings: of a chat (kept with it) and of the page (kept in this browser).

import { by } from "./dom.js";

const NUMBERS = {
  temperature: { least: 0, most: 100 },
  top_p: { least: 0, most: 1 },
  top_k: { least: 0, most: 1e6, whole: true },
  min_p: { least: 0, most: 1 },
  max_tokens: { least: 1, most: 1e7, whole: true },
  seed: { least: 0, most: Number.MAX_SAFE_INTEGER, whole: true },
};
const CHOICES = ["thinking", "mode"];
const PAGE = "pipesd-page";
const DEFAULTS = "pipesd-defaults";
const KEY = "pipesd-key";

/** What `words` say for setting `name`: a number, undefined for nothing; null if it cannot be. Pure. */
export function parsed(name, words) {
  const trimmed = words.trim();
  if (!trimmed) return undefined;
  const { least, most, whole } = NUMBERS[name];
  const value = Number(trimmed.replace(",", "."));
  const fits = Number.isFinite(value) && value >= least && value <= most && (!whole || Number.isInteger(value));
  return fits ? value : null;
}

const stored = (name) => {
  try {
    return JSON.parse(localStorage.getItem(name)) ?? {};
  } catch {
    return {};
  }
};

/** What a person chose for this page. */
export const page = { drafts: true, tint: false, inspector: null, ...stored(PAGE) };

export function keepPage(changes) {
  Object.assign(page, changes);
  localStorage.setItem(PAGE, JSON.stringify(page));
}

export const key = () => sessionStorage.getItem(KEY) ?? "";

/** The target's own defaults, as answers of `model` told them. */
export function noteDefaults(model, sampling, sent) {
  if (!sampling || !model) return;
  const all = stored(DEFAULTS);
  const own = Object.entries(sampling).filter(([name]) => name in NUMBERS && name !== "seed" && sent[name] === undefined);
  all[model] = { ...all[model], ...Object.fromEntries(own) };
  localStorage.setItem(DEFAULTS, JSON.stringify(all));
}

export class Settings {
  /** `chat()`: the settings to change; `onchat()` and `onpage()` are called after a change. */
  constructor(chat, onchat, onpage) {
    this.dialog = by("settings");
    this.chat = chat;
    by("set-system").addEventListener("change", () => this.set("system", by("set-system").value.trim() || undefined, onchat));
    for (const name of Object.keys(NUMBERS)) {
      const field = by(`set-${name}`);
      field.addEventListener("change", () => {
        const value = parsed(name, field.value);
        field.setAttribute("aria-invalid", String(value === null));
        if (value !== null) this.set(name, value, onchat);
      });
    }
    for (const name of CHOICES) by(`set-${name}`).addEventListener("change", () => this.set(name, by(`set-${name}`).value || undefined, onchat));
    for (const name of ["drafts", "tint"]) {
      by(`set-${name}`).checked = page[name];
      by(`set-${name}`).addEventListener("change", () => {
        keepPage({ [name]: by(`set-${name}`).checked });
        onpage();
      });
    }
    by("key").value = key();
    by("key").addEventListener("change", () => {
      sessionStorage.setItem(KEY, by("key").value.trim());
      onpage();
    });
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.dialog.close();
    });
  }

  set(name, value, onchat) {
    if (value === undefined) delete this.chat()[name];
    else this.chat()[name] = value;
    onchat();
  }

  open(focused) {
    const chat = this.chat();
    const defaults = stored(DEFAULTS)[chat.model || "default"] ?? {};
    by("set-system").value = chat.system ?? "";
    for (const name of Object.keys(NUMBERS)) {
      const field = by(`set-${name}`);
      field.value = chat[name] ?? "";
      field.removeAttribute("aria-invalid");
      field.placeholder = defaults[name] !== undefined ? String(defaults[name]) : name === "seed" ? "drawn anew" : "the target's own";
    }
    for (const name of CHOICES) by(`set-${name}`).value = chat[name] ?? "";
    if (!this.dialog.open) this.dialog.showModal();
    if (focused) by(focused).focus();
  }
}
