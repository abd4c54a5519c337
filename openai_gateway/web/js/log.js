// The conversation on the page: its turns, and where it is scrolled to.

import { MessageView } from "./message.js";

const NEAR = 80;
const AHEAD = "1200px";

export class Log {
  /** `tint()`: whether words are to be tinted now. */
  constructor(box, toEnd, actions, tint) {
    this.box = box;
    this.toEnd = toEnd;
    this.actions = actions;
    this.tint = tint;
    this.views = [];
    this.follows = true;
    this.top = 0;
    this.seen = new IntersectionObserver((entries) => this.reached(entries), { root: box, rootMargin: AHEAD });
    box.addEventListener("scroll", () => this.onScroll(), { passive: true });
    toEnd.addEventListener("click", () => this.scrollToEnd());
  }

  /** `turns`: [[message, {ids, index}]], the shown path with each message's siblings. */
  show(turns) {
    let kept = 0;
    while (kept < this.views.length && kept < turns.length && this.views[kept].id === turns[kept][0].id) kept++;
    for (const view of this.views.splice(kept)) {
      this.seen.unobserve(view.article);
      view.article.remove();
    }
    turns.forEach(([message, position], i) => {
      if (i < kept) {
        this.views[i].setPosition(position);
        return;
      }
      const view = new MessageView(message, this.actions);
      view.place(message, position);
      this.add(view);
    });
    this.redraw(turns);
  }

  redraw(turns) {
    turns.forEach(([message], i) => {
      const view = this.views[i];
      if (view.isDrawn && view.message !== message) view.update(message, this.tint());
    });
  }

  /** A view for an answer that comes in; it is the last turn until the next `show`. */
  begin(message) {
    const view = new MessageView(message, this.actions);
    view.isDrawn = true;
    this.add(view);
    this.follows = true;
    this.follow();
    return view;
  }

  add(view) {
    this.views.push(view);
    this.box.append(view.article);
    this.seen.observe(view.article);
  }

  reached(entries) {
    for (const { isIntersecting, target } of entries) {
      const view = isIntersecting && this.views.find((each) => each.article === target);
      if (view && !view.isDrawn) {
        view.draw(this.tint());
        if (this.follows) this.follow();
      }
    }
  }

  /** Draws everything again that was drawn. */
  refresh() {
    for (const view of this.views) if (view.isDrawn) view.update(view.message, this.tint());
  }

  get distance() {
    return this.box.scrollHeight - this.box.scrollTop - this.box.clientHeight;
  }

  /** Only a person scrolls up; the end moves away by itself, too. */
  onScroll() {
    const wentUp = this.box.scrollTop < this.top;
    this.top = this.box.scrollTop;
    this.follows = this.distance < NEAR || (this.follows && !wentUp);
    this.toEnd.hidden = this.follows || !this.views.length;
  }

  /** Keep the end in sight, if it was. */
  follow() {
    if (this.follows) this.box.scrollTop = this.box.scrollHeight;
  }

  scrollToEnd() {
    this.follows = true;
    this.follow();
    this.toEnd.hidden = true;
  }

  view(id) {
    return this.views.find((each) => each.id === id);
  }
}
