// Sends files, a few at a time, and shows how far each is. What breaks off is sent again by itself, under the same key,
// so that a file whose answer was lost does not become two.

import { make, show } from "./entry.js";
import { reason } from "./follow.js";
import { say, size } from "./say.js";

const AT_ONCE = 2;
const SLOWEST = 30_000;
const PATIENCE = 60_000; // without a byte passing

// A UUID of version 7, by the server's clock: it becomes the id of the file's job.
const ahead = Number(document.querySelector("#upload").dataset.now) * 1000 - Date.now();

function key() {
  const time = Math.floor(Date.now() + ahead).toString(16).padStart(12, "0");
  const bytes = crypto.getRandomValues(new Uint8Array(10));
  bytes[0] = 0x70 | (bytes[0] & 0x0f);
  bytes[2] = 0x80 | (bytes[2] & 0x3f);
  const hex = time + Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

export class Sender {
  #list;
  #max;
  #accepted;
  #queue = [];
  #items = new Map(); // by entry
  #running = 0;

  constructor(list, max, accepted) {
    this.#list = list;
    this.#max = max;
    this.#accepted = accepted;
    list.addEventListener("submit", (event) => this.#act(event));
    window.addEventListener("online", () => this.#again());
    window.addEventListener("beforeunload", (event) => {
      if ([...this.#items.values()].some((item) => item.pending)) event.preventDefault();
    });
  }

  // Resolves with the ids of the jobs that the files have become; null for one that was refused.
  add(files) {
    const items = files.map((file) => this.#item(file));
    // The newest is on top, as the server lists them.
    this.#list.prepend(...items.map((item) => item.entry).reverse());
    for (const item of items) this.#check(item);
    this.#next();
    return Promise.all(items.map((item) => item.outcome));
  }

  #item(file) {
    const item = { file, entry: make(), key: key(), pause: 500, pending: true, request: null, timer: 0 };
    item.outcome = new Promise((resolve) => { item.resolve = resolve; });
    this.#items.set(item.entry, item);
    return item;
  }

  #check(item) {
    const { name, size: bytes } = item.file;
    if (item.file.folder) this.#refuse(item, say("live.folder", { name }));
    else if (bytes === 0) this.#refuse(item, say("said.empty", { name }));
    else if (bytes > this.#max) this.#refuse(item, say("live.too-large", { name, size: size(bytes), limit: size(this.#max) }));
    else this.#enqueue(item);
  }

  #enqueue(item) {
    item.pending = true;
    this.#show(item, { label: say("word.waiting"), text: say("live.queued") });
    this.#queue.push(item);
  }

  #next() {
    while (this.#running < AT_ONCE && this.#queue.length) {
      this.#running += 1;
      this.#send(this.#queue.shift());
    }
  }

  #send(item) {
    const request = new XMLHttpRequest();
    item.request = request;
    item.entry.dataset.sending = "";
    let silence = 0;
    const alive = () => {
      clearTimeout(silence);
      silence = setTimeout(() => request.abort(), PATIENCE);
    };
    request.upload.addEventListener("progress", (event) => {
      alive();
      // Of the whole body, which is the file and a little more.
      const part = Math.min(event.loaded, item.file.size);
      this.#show(item, { text: say("live.sent", { part: size(part), size: size(item.file.size) }), progress: part / item.file.size });
    });
    request.addEventListener("loadend", () => {
      clearTimeout(silence);
      item.request = null;
      delete item.entry.dataset.sending;
      this.#running -= 1;
      if (item.pending) this.#answered(item, request);
      this.#next();
    });
    this.#show(item, { progress: 0 });
    alive();
    const form = new FormData();
    form.append("Upload", item.file.content, item.file.name);
    request.open("POST", "/api/files");
    request.responseType = "json";
    request.setRequestHeader("Idempotency-Key", item.key);
    request.send(form);
  }

  #answered(item, request) {
    const { status, response } = request;
    if (status === 202 && response) {
      item.pending = false;
      this.#items.delete(item.entry);
      this.#accepted(item.entry, response);
      item.resolve(response.id);
    } else if ([0, 408, 429, 500, 502, 503, 504].includes(status)) this.#interrupted(item, request);
    else this.#refuse(item, response?.error ?? reason(status), status === 401 || status === 507);
  }

  async #interrupted(item, request) {
    try {
      await item.file.content.slice(0, 1).arrayBuffer();
    } catch {
      return this.#refuse(item, say("live.unreadable", { name: item.file.name }));
    }
    if (!item.pending) return; // cancelled meanwhile
    item.pause = Math.min(Math.max(item.pause * 2, 1000 * Number(request.getResponseHeader("Retry-After") ?? 0)), SLOWEST);
    const text = request.response?.error ?? say("live.interrupted", { count: Math.ceil(item.pause / 1000) });
    this.#show(item, { label: say("word.waiting"), text });
    item.timer = setTimeout(() => this.#retry(item), item.pause);
  }

  #retry(item) {
    clearTimeout(item.timer);
    item.timer = 0;
    this.#enqueue(item);
    this.#next();
  }

  #again() {
    for (const item of this.#items.values()) if (item.timer) this.#retry(item);
  }

  #refuse(item, info, hopeful = false) {
    item.pending = false;
    this.#show(item, { status: "failed", label: say("word.failed"), info, can: hopeful ? ["retry"] : [] });
    item.resolve(null);
  }

  // The buttons of files that are no jobs yet.
  #act(event) {
    const item = this.#items.get(event.target.closest(".file"));
    if (!item) return;
    event.preventDefault();
    if (event.target.classList.contains("retry")) return this.#retry(item);
    item.pending = false;
    this.#queue = this.#queue.filter((other) => other !== item);
    clearTimeout(item.timer);
    item.timer = 0;
    item.request?.abort();
    this.#show(item, { status: "failed", cancelled: true, label: say("word.cancelled"), info: say("live.sent-away"), can: ["retry"] });
    item.resolve(null);
  }

  #show(item, told) {
    show(item.entry, {
      id: "", name: item.file.name, size: item.file.size, status: "sending", label: say("word.sending"), text: "",
      info: "", progress: null, picture: null, can: ["cancel"], ...told,
    });
  }
}
