// Who wrote each word, laid over rendered markdown. Pure.

export const SOURCES = {
  drafted: { name: "draft model", words: "drafted here by the small model; the target agreed" },
  looked_up: { name: "looked up", words: "drafted from the text itself or from files of this machine; the target agreed" },
  server: { name: "server", words: "drafted by the server itself; the target agreed" },
  corrected: { name: "target", words: "the target's own choice" },
  unverified: { name: "not verified", words: "the draft model's own; no target has checked it" },
  draft: { name: "draft", words: "a draft that is being verified" },
};

/** Those that tokens of an answer have. */
export const KINDS = Object.keys(SOURCES).filter((name) => name !== "draft");
const HEAD = 16; // characters by which the beginning of a text is found again
const REACH = 48; // most characters of markup between two characters of text
const BLANK_REACH = 4; // the same before a blank: rendering adds blanks of its own

/**
 * The runs of `source` that texts rendered from it consist of: for each text a list of `[start, end, name]`.
 * Rendering takes markup away and adds little, so each text is found in what is left of the source.
 * `runs`: `[[name, end], ...]` over `source`; beyond the last one nothing has a name (null).
 */
export function overlaid(texts, source, runs) {
  let at = 0;
  let run = 0;
  return texts.map((text) => {
    const isBlank = !text.trim(); // between the items of a list, say
    if (!isBlank) at = beginning(text, source, at);
    const pieces = [];
    for (let i = 0; i < text.length; i++) {
      const found = isBlank && source[at] !== text[i] ? -1 : next(text[i], source, at);
      const place = found < 0 ? Math.max(at - 1, 0) : found;
      if (found >= 0) at = found + 1;
      while (run < runs.length && runs[run][1] <= place) run++;
      const name = runs[run]?.[0] ?? null;
      const last = pieces[pieces.length - 1];
      if (last && last[2] === name) last[1] = i + 1;
      else pieces.push([i, i + 1, name]);
    }
    return pieces;
  });
}

function beginning(text, source, at) {
  const head = text.trimStart().slice(0, HEAD).split("\n")[0];
  for (let length = head.length; length > 1; length = Math.floor(length / 2)) {
    const found = source.indexOf(head.slice(0, length), at);
    if (found >= 0 && found - at <= 4 * REACH) return found - gap(text, source, found);
  }
  return at;
}

/** How many of the blanks before a text's first word stand in the source before `found`, too. */
function gap(text, source, found) {
  const blanks = text.length - text.trimStart().length;
  let num = 0;
  while (num < blanks && num < found && source[found - num - 1] === text[blanks - num - 1]) num++;
  return num;
}

function next(character, source, at) {
  const end = Math.min(source.length, at + (character.trim() ? REACH : BLANK_REACH));
  for (let i = at; i < end; i++) if (source[i] === character) return i;
  return -1;
}

/** The part of `runs` from `start` to `end`, counted from `start`. */
export function sliced(runs, start, end) {
  const found = [];
  let before = 0;
  for (const [name, until] of runs) {
    if (until > start && before < end) found.push([name, Math.min(until, end) - start]);
    before = until;
  }
  return found;
}
