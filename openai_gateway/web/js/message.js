// One turn of the conversation on the page.

import { element, iconButton } from "./dom.js";
import { summary } from "./figures.js";
import { Rendered } from "./rendered.js";

/**
 * `actions`: functions of the message's id: edit(id, words), again(id), fork(id), show(siblingId), inspect(id).
 * `shown` of `update`: a message of the chat, or an answer that comes in (with `isLive`).
 */
export class MessageView {
  constructor(message, actions) {
    this.id = message.id;
    this.actions = actions;
    this.message = message;
    this.isUser = message.role === "user";
    this.article = element("article", { class: `turn ${message.role}`, "data-id": message.id });
    this.name = element("h2", {}, this.isUser ? "You" : message.model || "Assistant");
    this.text = element("div", { class: this.isUser ? "text" : "text answer" });
    this.notes = element("div", { class: "notes" });
    this.foot = element("div", { class: "foot" });
    this.article.append(this.name, ...this.attached(message), this.text, this.notes, this.foot);
    this.rendered = new Rendered(this.text);
    this.isDrawn = false;
    this.position = null;
  }

  attached({ attachments = [] }) {
    return attachments.map((each) =>
      each.kind === "image"
        ? element("img", { class: "attached", src: each.url, alt: each.name })
        : element("details", { class: "attached" }, element("summary", {}, each.name), element("pre", { tabindex: "0" }, each.text)));
  }

  /** Plain text until `draw`: a long conversation is drawn where it is looked at. */
  place(message, position) {
    this.message = message;
    this.setPosition(position);
    if (!this.isDrawn) this.text.textContent = message.content;
  }

  draw(tint) {
    if (!this.isDrawn && !this.isUser) this.text.replaceChildren();
    this.isDrawn = true;
    this.update(this.message, tint);
  }

  update(shown, tint) {
    this.message = shown;
    if (this.isUser) {
      if (!this.editor) this.text.textContent = shown.content;
    } else {
      this.showThoughts(shown, tint);
      const grey = shown.isThinking ? "" : shown.grey ?? "";
      const [text, runs] = withDrafts(shown.content, shown.runs ?? [], grey);
      this.rendered.show(text, runs, tint);
      this.text.classList.toggle("busy", Boolean(shown.isLive && !shown.isThinking));
      this.showCalls(shown.calls ?? []);
    }
    this.showNotes(shown);
    if (!shown.isLive) this.showFoot();
  }

  showThoughts({ thoughts, thoughtRuns, isThinking, isLive, grey }, tint) {
    if (!thoughts) return;
    if (!this.thoughts) {
      this.summary = element("summary");
      const box = element("div", { class: "thoughts-text" });
      this.thoughts = element("details", { class: "thoughts" }, this.summary, box);
      this.thoughtsRendered = new Rendered(box);
      this.text.before(this.thoughts);
    }
    const words = isLive && isThinking ? "Thinking" : "Thoughts";
    if (this.summary.textContent !== words) this.summary.textContent = words;
    this.summary.classList.toggle("busy", Boolean(isLive && isThinking));
    const [text, runs] = withDrafts(thoughts, thoughtRuns ?? [], isThinking ? grey ?? "" : "");
    this.thoughtsRendered.show(text, runs, tint);
  }

  showCalls(calls) {
    if (!calls.length) return;
    this.calls ??= element("div", { class: "calls" });
    if (!this.calls.isConnected) this.text.after(this.calls);
    calls.filter(Boolean).forEach((call, i) => {
      let box = this.calls.children[i];
      if (!box) {
        box = element("details", { class: "call" }, element("summary"), element("pre", { tabindex: "0" }));
        this.calls.append(box);
      }
      box.children[0].textContent = `Tool call: ${call.name || "…"}`;
      box.children[1].textContent = indented(call.arguments);
    });
  }

  showNotes({ error, note, figures, finish, isLive }) {
    const notes = [];
    if (error) notes.push(element("p", { class: "error", role: "alert" }, error));
    if (note) notes.push(element("p", { class: "note" }, note));
    if (!isLive && finish === "length") notes.push(element("p", { class: "note" }, "The answer ended at the longest length allowed."));
    if (!isLive && figures?.verified === false) {
      const { unverified_tokens: num } = figures;
      notes.push(element("p", { class: "note" }, num ? `${num} tokens of this answer are the draft model's own; the target has not checked them.` : "The target has not checked this answer."));
    }
    const key = notes.map((each) => each.textContent).join("\n");
    if (key !== this.notesKey) this.notes.replaceChildren(...notes);
    this.notesKey = key;
  }

  /** `position`: {ids, index}, the message's siblings. */
  setPosition(position) {
    const key = JSON.stringify(position);
    if (key === this.positionKey) return;
    this.positionKey = key;
    this.position = position;
    this.showFoot();
  }

  showFoot() {
    const { id, actions, message } = this;
    if (message.isLive) {
      this.foot.replaceChildren();
      return;
    }
    const line = this.isUser ? "" : summary(message);
    this.foot.replaceChildren(
      ...(this.position?.ids.length > 1 ? [this.pager()] : []),
      iconButton("copy", "Copy", () => navigator.clipboard.writeText(message.content)),
      ...(this.isUser
        ? [iconButton("edit", "Edit", () => this.edit())]
        : [iconButton("again", "Answer again", () => actions.again(id)), iconButton("branch", "Go on in a new chat", () => actions.fork(id))]),
      ...(line ? [element("button", { type: "button", class: "summary", title: "How this answer was made", onclick: () => actions.inspect(id) }, line)] : []),
    );
  }

  pager() {
    const { ids, index } = this.position;
    const go = (step) => () => this.actions.show(ids[index + step]);
    return element("span", { class: "pager", role: "group", "aria-label": "Versions" },
      iconButton("left", "Previous version", go(-1), { disabled: index === 0 }), `${index + 1} / ${ids.length}`, iconButton("right", "Next version", go(1), { disabled: index === ids.length - 1 }));
  }

  edit() {
    if (this.editor) return;
    const field = element("textarea", { rows: "3", "aria-label": "Edit the message" });
    field.value = this.message.content;
    const close = () => {
      this.editor.remove();
      this.editor = null;
      this.text.hidden = this.foot.hidden = false;
    };
    const save = () => {
      const words = field.value.trim();
      close();
      if (words && words !== this.message.content) this.actions.edit(this.id, words);
    };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        close();
        this.foot.querySelector('[aria-label="Edit"]')?.focus();
      } else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) save();
    });
    this.editor = element("div", { class: "editor" }, field,
      element("div", { class: "row" }, element("button", { type: "button", class: "primary", onclick: save }, "Send again"), element("button", { type: "button", onclick: close }, "Cancel")));
    this.text.hidden = this.foot.hidden = true;
    this.text.after(this.editor);
    field.focus();
  }
}

/** `text` with drafts after it, and their run. */
function withDrafts(text, runs, grey) {
  if (!grey) return [text, runs];
  const end = runs[runs.length - 1]?.[1] ?? 0;
  const whole = end < text.length ? [...runs, [null, text.length]] : runs;
  return [text + grey, [...whole, ["draft", text.length + grey.length]]];
}

function indented(json) {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json;
  }
}
