// Follows files until nothing more happens to them: by events that the server sends, and where those do not come
// through, by asking. Nothing that fails is a reason to stop: the next try comes later, up to half a minute.

import { announce, say } from "./say.js";

const SLOWEST = 30_000;
const PATIENCE = 10_000; // for one answer
const FIRST = 3_000; // for the first event: a stream that says nothing may be held back on its way
const SILENCE = 25_000; // the server gives a sign of life every ten seconds
const UNSEEN = 10_000; // between two questions of a page that nobody looks at
const MOST = 100; // files that one stream tells of
const TOGETHER = 100; // files that are sent together are followed by one stream

export class Follower {
  #ids = new Set();
  #show;
  #usual;
  #wait;
  #source = null;
  #streamed = new Set();
  #streamPause = 1_000;
  #nextStream = 0;
  #last = "";
  #timer = 0;
  #guard = 0;
  #soon = 0;
  #troubled = false;

  constructor(usual, show) {
    this.#usual = this.#wait = Math.max(50, usual * 1000);
    this.#show = show;
    // Somebody looks again, or the network is back: no need to wait out a long pause.
    window.addEventListener("online", () => this.#now());
    document.addEventListener("visibilitychange", () => this.#now());
    // Connections are few: a page that waits in the browser's cache must not hold one.
    window.addEventListener("pagehide", () => this.#close());
    window.addEventListener("pageshow", (event) => event.persisted && this.#now());
  }

  follow(...ids) {
    for (const id of ids) this.#ids.add(id);
    clearTimeout(this.#soon);
    this.#soon = setTimeout(() => this.#connect(), TOGETHER);
  }

  #take(file) {
    if (file.settled) this.#ids.delete(file.id);
    this.#show(file);
    if (this.#ids.size === 0) {
      this.#close();
      this.#content(); // it was the last news: nothing that follows would take back a complaint
    } else if ([...this.#ids].every((id) => !this.#streamed.has(id))) this.#connect();
  }

  #now() {
    if (this.#ids.size === 0) return;
    this.#wait = this.#usual;
    this.#nextStream = 0;
    if (document.visibilityState === "hidden") {
      this.#close();
      this.#later(UNSEEN);
    } else {
      if (this.#troubled) this.#later(0);
      this.#connect();
    }
  }

  // the stream

  #connect() {
    if (document.visibilityState === "hidden") return this.#later(UNSEEN);
    const ids = [...this.#ids].slice(0, MOST);
    if (ids.length === 0) return;
    if (this.#source && ids.every((id) => this.#streamed.has(id))) return;
    if (performance.now() < this.#nextStream) return this.#later(this.#wait);
    const same = ids.length === this.#streamed.size && ids.every((id) => this.#streamed.has(id));
    this.#source?.close();
    this.#streamed = new Set(ids);
    const query = new URLSearchParams(ids.map((id) => ["jobId", id]));
    if (same && this.#last) query.set("after", this.#last);
    const source = new EventSource(`/api/events?${query}`);
    this.#source = source;
    source.addEventListener("file", (event) => this.#take(JSON.parse(event.data)));
    source.addEventListener("beat", (event) => {
      this.#last = event.lastEventId;
      this.#streamPause = 1_000;
      this.#well();
      this.#watch(SILENCE);
    });
    source.addEventListener("error", () => {
      // Closed: refused, and not taken up by the browser again.
      if (source.readyState === EventSource.CLOSED) this.#lost();
      else if (!this.#timer) this.#later(this.#wait);
    });
    this.#watch(FIRST);
  }

  #watch(patience) {
    clearTimeout(this.#guard);
    this.#guard = setTimeout(() => this.#lost(), patience);
  }

  #lost() {
    if (!this.#source) return;
    this.#close();
    this.#nextStream = performance.now() + this.#streamPause;
    this.#streamPause = Math.min(this.#streamPause * 2, SLOWEST);
    this.#later(0);
  }

  #close() {
    clearTimeout(this.#guard);
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#source?.close();
    this.#source = null;
  }

  // asking

  #later(pause) {
    if (this.#ids.size === 0) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#ask(), pause);
  }

  async #ask() {
    this.#timer = -1; // under way
    const answers = await Promise.all([...this.#ids].map((id) => this.#askFor(id)));
    const problem = answers.find((answer) => answer !== "");
    if (!problem) this.#content();
    if (this.#timer !== -1) return; // a stream has come through meanwhile, or it was the last question
    this.#timer = 0;
    if (problem) {
      this.#wait = Math.min(this.#wait * 2, SLOWEST);
      this.#complain(`${problem} ${say("live.again", { count: Math.ceil(this.#wait / 1000) })}`);
    } else {
      this.#wait = this.#usual;
      if (!this.#source) this.#connect();
    }
    if (this.#timer === 0) this.#later(document.visibilityState === "hidden" ? Math.max(this.#wait, UNSEEN) : this.#wait);
  }

  async #askFor(id) {
    try {
      const response = await fetch(`/api/status/${id}`, { signal: AbortSignal.timeout(PATIENCE) });
      if (!response.ok) return reason(response.status);
      const file = await response.json();
      // Asking ends where the work does; only a stream waits for a picture that comes later.
      if (file.status === "ok" || file.status === "failed") file.settled = true;
      this.#take(file);
      return "";
    } catch {
      return say("live.silent");
    }
  }

  #well() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#wait = this.#usual;
    this.#content();
  }

  // telling of trouble

  #complain(text) {
    this.#troubled = true;
    const note = document.querySelector("#trouble");
    note.hidden = false;
    note.textContent = text;
  }

  #content() {
    if (!this.#troubled) return;
    this.#troubled = false;
    const note = document.querySelector("#trouble");
    note.hidden = true;
    note.textContent = "";
    announce(say("live.back"));
  }
}

export function reason(status) {
  if (status === 401) return say("live.signed-out");
  if (status === 404) return say("live.unknown");
  return say("live.error", { status: String(status) });
}
