// The list of chats.

import { element, iconButton } from "./dom.js";

export class Sidebar {
  /** `actions`: open(id), rename(id, title), remove(id). */
  constructor(list, empty, actions) {
    this.list = list;
    this.empty = empty;
    this.actions = actions;
  }

  /** `titles`: [{id, title}]; `current`: the open one's id; `searched`: whether they are what a search found. */
  show(titles, current, searched) {
    if (this.list.querySelector("input")) return; // a name is being written
    const focused = document.activeElement?.closest?.("#chats li")?.dataset.id;
    this.list.replaceChildren(...titles.map((each) => this.item(each, each.id === current)));
    this.empty.textContent = titles.length ? "" : searched ? "No chat says that." : "No chats yet. They are kept in this browser only.";
    if (focused) this.list.querySelector(`li[data-id="${CSS.escape(focused)}"] button`)?.focus();
  }

  item({ id, title }, isCurrent) {
    const open = element("button", { type: "button", class: "open", "aria-current": isCurrent ? "true" : null, title, onclick: () => this.actions.open(id) }, title);
    const item = element("li", { "data-id": id, class: isCurrent ? "current" : "" }, open);
    item.append(
      iconButton("edit", `Rename "${title}"`, () => this.rename(item, open, id, title)),
      iconButton("trash", `Delete "${title}"`, () => this.actions.remove(id)),
    );
    return item;
  }

  rename(item, open, id, title) {
    const field = element("input", { "aria-label": "Name of the chat", maxlength: "200" });
    field.value = title;
    let isOver = false;
    const end = (isKept) => {
      if (isOver) return; // taking the field away is a blur, too
      isOver = true;
      const name = field.value.trim();
      field.replaceWith(open);
      item.classList.remove("renaming");
      if (isKept && name && name !== title) this.actions.rename(id, name);
      open.focus();
    };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter") end(true);
      if (event.key !== "Escape") return;
      event.stopPropagation();
      end(false);
    });
    field.addEventListener("blur", () => end(true));
    item.classList.add("renaming");
    open.replaceWith(field);
    field.select();
  }
}
