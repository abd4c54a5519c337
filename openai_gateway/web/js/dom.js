// Making elements.

const SVG = "http://www.w3.org/2000/svg";

/** `element("button", {class: "icon", type: "button", onclick}, "text", node, ...)`; null children are left out. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

export function drawn(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** A button that shows one of the page's symbols, with `words` for who cannot see it. */
export function iconButton(symbol, words, onclick, attributes = {}) {
  return element("button", { class: "icon", type: "button", "aria-label": words, title: words, onclick, ...attributes }, drawn("svg", { "aria-hidden": "true" }, drawn("use", { href: `#i-${symbol}` })));
}

export const by = (id) => document.getElementById(id);

/** Calls `draw` in the next frame, once however often it is asked; a slow one less often. */
export function paced(draw) {
  let isAsked = false;
  let notBefore = 0;
  const run = () => {
    const now = performance.now();
    if (now < notBefore) {
      requestAnimationFrame(run);
      return;
    }
    isAsked = false;
    draw();
    const took = performance.now() - now;
    notBefore = took > 8 ? performance.now() + 4 * took : 0;
  };
  return () => {
    if (isAsked) return;
    isAsked = true;
    if (document.hidden) setTimeout(run, 250);
    else requestAnimationFrame(run);
  };
}
