// Where a message is written: text, files, images.

import { by, element, iconButton } from "./dom.js";

const IMAGES = /^image\/(png|jpeg|gif|webp)$/;
const LARGEST_TEXT = 1 << 20;
const LARGEST_IMAGE = 10 << 20;

/** A file as an attachment. Throws `Error` with a sentence for a person. */
export async function attachmentOf(file) {
  if (IMAGES.test(file.type)) {
    if (file.size > LARGEST_IMAGE) throw new Error(`${file.name} is larger than 10 MB.`);
    return { kind: "image", name: file.name, url: await dataUrl(file) };
  }
  if (file.size > LARGEST_TEXT) throw new Error(`${file.name} is larger than 1 MB.`);
  const bytes = new Uint8Array(await file.arrayBuffer());
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    text = "\0";
  }
  if (text.includes("\0")) throw new Error(`${file.name} is neither text nor a PNG, JPEG, GIF or WebP image.`);
  return { kind: "text", name: file.name, text };
}

function dataUrl(file) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(new Error(`${file.name} cannot be read.`));
    reader.readAsDataURL(file);
  });
}

export class Composer {
  /** `onsend(words, attachments)`; `onstop()`; `say(words)` tells a person something. */
  constructor(onsend, onstop, say) {
    this.prompt = by("prompt");
    this.list = by("attachments");
    this.attachments = [];
    this.say = say;
    this.isBusy = false;
    // Keyboards on glass have no Shift+Enter that a person would find: there Enter is a new line.
    const glass = matchMedia("(pointer: coarse)");
    const explain = () => (by("keys").textContent = glass.matches ? "Enter starts a new line; the arrow sends." : "Enter sends, Shift+Enter starts a new line, Escape stops an answer.");
    glass.addEventListener("change", explain);
    explain();
    const send = () => {
      const words = this.prompt.value.trim();
      if (this.isBusy || (!words && !this.attachments.length)) return;
      const attachments = this.attachments;
      this.restore("", []);
      onsend(words, attachments);
    };
    by("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      send();
    });
    this.prompt.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing || glass.matches) return;
      event.preventDefault();
      send();
    });
    this.prompt.addEventListener("input", () => this.grow());
    by("stop").addEventListener("click", onstop);
    by("attach").addEventListener("click", () => by("attach-file").click());
    by("attach-file").addEventListener("change", () => {
      this.add([...by("attach-file").files]);
      by("attach-file").value = "";
    });
    this.prompt.addEventListener("paste", (event) => {
      const files = [...(event.clipboardData?.files ?? [])];
      if (!files.length) return;
      event.preventDefault();
      this.add(files);
    });
    for (const name of ["dragover", "drop"]) {
      document.addEventListener(name, (event) => {
        if (!event.dataTransfer?.types.includes("Files")) return;
        event.preventDefault();
        if (name === "drop") this.add([...event.dataTransfer.files]);
      });
    }
  }

  async add(files) {
    for (const file of files) {
      try {
        this.attachments.push(await attachmentOf(file));
      } catch (error) {
        this.say(error.message);
      }
    }
    this.showAttachments();
    this.prompt.focus();
  }

  /** Puts a message into the field. */
  restore(words, attachments) {
    this.prompt.value = words;
    this.attachments = attachments;
    this.showAttachments();
    this.grow();
  }

  get isEmpty() {
    return !this.prompt.value && !this.attachments.length;
  }

  showAttachments() {
    this.list.hidden = !this.attachments.length;
    this.list.replaceChildren(...this.attachments.map((each) =>
      element("li", {}, each.kind === "image" ? element("img", { src: each.url, alt: "" }) : null, element("span", {}, each.name),
        iconButton("close", `Remove ${each.name}`, () => this.restore(this.prompt.value, this.attachments.filter((other) => other !== each))))));
  }

  grow() {
    this.prompt.style.height = "auto";
    this.prompt.style.height = `${this.prompt.scrollHeight + 2}px`;
  }

  setBusy(isBusy) {
    this.isBusy = isBusy;
    const hadFocus = document.activeElement === by("stop") || document.activeElement === by("send");
    by("send").hidden = isBusy;
    by("stop").hidden = !isBusy;
    if (hadFocus || (!isBusy && document.activeElement === document.body)) this.prompt.focus();
  }
}
