// Chats as a file: written out, and read in with nothing believed. Pure.

import { VERSION } from "./chat.js";
import { KINDS } from "./provenance.js";

const FORMAT = "pipesd-chats";
const IMAGE = /^data:image\/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]+$/;

export function exported(chats) {
  return JSON.stringify({ format: FORMAT, version: VERSION, chats }, null, 1);
}

/**
 * The chats of an exported file, rebuilt field by field under new ids. `newId()` gives an id.
 * Throws `Error` with a sentence for a person.
 */
export function imported(text, newId, now) {
  let read;
  try {
    read = JSON.parse(text);
  } catch {
    throw new Error("This file is not JSON.");
  }
  if (read?.format !== FORMAT || !Array.isArray(read.chats)) throw new Error("This is no file of exported PipeSD chats.");
  if (!(read.version <= VERSION)) throw new Error("This file is of a newer version of the page.");
  return read.chats.map((chat) => chatOf(chat, newId, now));
}

const string = (value) => (typeof value === "string" ? value : "");
const finite = (value, otherwise) => (Number.isFinite(value) ? value : otherwise);
const list = (value) => (Array.isArray(value) ? value : []);
const record = (value) => (value && typeof value === "object" && !Array.isArray(value) ? value : {});

function chatOf(read, newId, now) {
  const chat = record(read);
  const given = Object.values(record(chat.messages)).map(record).filter((each) => typeof each.id === "string" && ["user", "assistant"].includes(each.role));
  const ids = new Map(given.map((each) => [each.id, newId()]));
  const messages = {};
  for (const each of given) {
    const message = messageOf(each, now);
    message.id = ids.get(each.id);
    message.parent = ids.get(each.parent) ?? null;
    messages[message.id] = message;
  }
  cutCircles(messages);
  const leaf = ids.get(chat.leaf) ?? Object.keys(messages).pop() ?? null;
  return {
    version: VERSION, id: newId(), title: string(chat.title).slice(0, 200), created: finite(chat.created, now), updated: finite(chat.updated, now),
    settings: settingsOf(record(chat.settings)), messages, leaf,
  };
}

/** A message whose ancestors lead back to it becomes a root. */
function cutCircles(messages) {
  for (const message of Object.values(messages)) {
    const seen = new Set([message.id]);
    for (let at = message.parent; at !== null; at = messages[at].parent) {
      if (seen.has(at)) {
        message.parent = null;
        break;
      }
      seen.add(at);
    }
  }
}

function messageOf(each, now) {
  const message = { role: each.role, created: finite(each.created, now), content: string(each.content) };
  const attachments = list(each.attachments).map(attachmentOf).filter(Boolean);
  if (attachments.length) message.attachments = attachments;
  if (each.role === "user") return message;
  return {
    ...message, thoughts: string(each.thoughts), runs: runsOf(each.runs), thoughtRuns: runsOf(each.thoughtRuns), model: string(each.model),
    note: string(each.note), error: string(each.error), finish: string(each.finish) || null,
    calls: list(each.calls).map(record).map((call) => ({ name: string(call.name), arguments: string(call.arguments) })),
    figures: plain(record(each.figures)), tokens: finite(each.tokens, null), rate: finite(each.rate, null),
    counts: numbersOf(each.counts), pieces: list(each.pieces).map(numbersOf).filter((piece) => Number.isFinite(piece.at)),
  };
}

function attachmentOf(read) {
  const each = record(read);
  const name = string(each.name).slice(0, 200) || "file";
  if (each.kind === "text" && typeof each.text === "string") return { kind: "text", name, text: each.text };
  if (each.kind === "image" && IMAGE.test(string(each.url))) return { kind: "image", name, url: each.url };
  return null;
}

const runsOf = (runs) => list(runs).filter((run) => Array.isArray(run) && (KINDS.includes(run[0]) || run[0] === null) && Number.isFinite(run[1])).map(([name, end]) => [name, end]);
const numbersOf = (value) => Object.fromEntries(Object.entries(record(value)).filter(([, each]) => Number.isFinite(each)));

/** Numbers, strings and booleans, one level down as well. */
function plain(value, depth = 1) {
  const simple = (each) => each === null || ["number", "string", "boolean"].includes(typeof each);
  const entries = Object.entries(value).map(([name, each]) => [name, simple(each) ? each : depth && typeof each === "object" && !Array.isArray(each) ? plain(each, depth - 1) : undefined]);
  return Object.fromEntries(entries.filter(([, each]) => each !== undefined));
}

function settingsOf(read) {
  const numbers = Object.fromEntries(["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed"].filter((name) => Number.isFinite(read[name])).map((name) => [name, read[name]]));
  const mode = ["auto", "latency", "balanced", "offload"].includes(read.mode) ? { mode: read.mode } : {};
  const thinking = ["on", "off"].includes(read.thinking) ? { thinking: read.thinking } : {};
  return { ...numbers, ...mode, ...thinking, ...(read.system ? { system: string(read.system) } : {}), ...(read.model ? { model: string(read.model) } : {}) };
}
