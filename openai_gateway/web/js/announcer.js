// An answer for a screen reader: sentence by sentence as it is committed, and when it has ended.

import { spoken } from "./markdown.js";

const SENTENCE = /[.!?。！？:]["')\]]*\s|\n/g;
const MOST = 12;

/** How much of `text`, from `from` on, is whole sentences: the end of the last one. Pure. */
export function sentenceEnd(text, from) {
  let end = from;
  SENTENCE.lastIndex = from;
  for (let found = SENTENCE.exec(text); found; found = SENTENCE.exec(text)) end = found.index + found[0].length;
  return end;
}

export class Announcer {
  constructor(box) {
    this.box = box;
    this.told = 0;
  }

  begin() {
    this.box.replaceChildren();
    this.told = 0;
  }

  /** `text`: the committed answer so far. */
  tell(text) {
    this.upTo(text, sentenceEnd(text, this.told));
  }

  end(text, how) {
    this.upTo(text, text.length);
    this.say(how);
  }

  upTo(text, end) {
    if (end <= this.told) return;
    const words = spoken(text.slice(this.told, end));
    this.told = end;
    if (words) this.say(words);
  }

  say(words) {
    const line = document.createElement("p");
    line.textContent = words;
    this.box.append(line);
    while (this.box.childElementCount > MOST) this.box.firstElementChild.remove();
  }
}
