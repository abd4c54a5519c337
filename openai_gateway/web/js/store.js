// Chats in this browser (IndexedDB); in memory where the browser keeps nothing.

import { mentions, titleOf } from "./chat.js";

const NAME = "pipesd";
const CHATS = "chats";
const TITLES = "titles";

/** Opens the store. `onchange` is called when another tab has changed something. */
export async function openStore(onchange = () => {}) {
  try {
    return new Store(await opened(), onchange);
  } catch {
    return new MemoryStore();
  }
}

function opened() {
  return new Promise((done, failed) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore(CHATS, { keyPath: "id" });
      request.result.createObjectStore(TITLES, { keyPath: "id" });
    };
    request.onsuccess = () => done(request.result);
    request.onerror = request.onblocked = () => failed(request.error ?? new Error("blocked"));
  });
}

const result = (request) => new Promise((done, failed) => Object.assign(request, { onsuccess: () => done(request.result), onerror: () => failed(request.error) }));
const brief = (chat) => ({ id: chat.id, title: titleOf(chat), updated: chat.updated });
const newestFirst = (a, b) => b.updated - a.updated;

class Store {
  isKept = true;

  constructor(database, onchange) {
    this.database = database;
    this.channel = new BroadcastChannel(NAME);
    this.channel.onmessage = () => onchange();
  }

  /** {id, title, updated} of every chat, newest first. */
  async titles() {
    return (await result(this.database.transaction(TITLES).objectStore(TITLES).getAll())).sort(newestFirst);
  }

  get(id) {
    return result(this.database.transaction(CHATS).objectStore(CHATS).get(id));
  }

  all() {
    return result(this.database.transaction(CHATS).objectStore(CHATS).getAll());
  }

  async put(chat) {
    await this.changed((chats, titles) => {
      chats.put(chat);
      titles.put(brief(chat));
    });
  }

  async remove(id) {
    await this.changed((chats, titles) => {
      chats.delete(id);
      titles.delete(id);
    });
  }

  /** As `titles`, of chats in which `words` stand. */
  search(words) {
    const wanted = words.toLowerCase();
    const found = [];
    return new Promise((done, failed) => {
      const request = this.database.transaction(CHATS).objectStore(CHATS).openCursor();
      request.onerror = () => failed(request.error);
      request.onsuccess = () => {
        const cursor = request.result;
        if (!cursor) {
          done(found.sort(newestFirst));
          return;
        }
        if (mentions(cursor.value, wanted)) found.push(brief(cursor.value));
        cursor.continue();
      };
    });
  }

  changed(change) {
    const transaction = this.database.transaction([CHATS, TITLES], "readwrite");
    change(transaction.objectStore(CHATS), transaction.objectStore(TITLES));
    return new Promise((done, failed) => {
      transaction.oncomplete = () => {
        this.channel.postMessage("changed");
        done();
      };
      transaction.onerror = transaction.onabort = () => failed(transaction.error);
    });
  }
}

class MemoryStore {
  isKept = false;
  chats = new Map();

  async titles() {
    return [...this.chats.values()].map(brief).sort(newestFirst);
  }

  async get(id) {
    return this.chats.get(id);
  }

  async all() {
    return [...this.chats.values()];
  }

  async put(chat) {
    this.chats.set(chat.id, structuredClone(chat));
  }

  async remove(id) {
    this.chats.delete(id);
  }

  async search(words) {
    return [...this.chats.values()].filter((chat) => mentions(chat, words.toLowerCase())).map(brief).sort(newestFirst);
  }
}
