// Keeps the page fresh: asks for it again when something happened, and now and then in any case, and brings over what
// differs. Not while it is paused, hidden, or somebody selects text or fills in a form in it.

import { localise } from "./times.js";
import { morph } from "./morph.js";

const SLOWEST = 30_000;
const PATIENCE = 15_000;

const box = document.querySelector("#live");
const button = document.querySelector("#pause");
const trouble = document.querySelector("#live-trouble");
const part = document.querySelector("#fresh");
const usual = Number(box.dataset.every) * 1_000;
// Between two looks, however much happens.
const APART = document.querySelector("#job") ? 1_000 : 2_000;

let paused = false;
let over = false;
let loading = false;
let wanted = false;
let failures = 0;
let last = performance.now();
let timer = 0;

function address() {
  const url = new URL(location.href);
  url.searchParams.delete("done");
  const shown = document.querySelector("#newer")?.dataset.shown;
  if (shown) url.searchParams.set("shown", shown);
  return url;
}

function isBusy() {
  const selection = getSelection();
  if (!selection.isCollapsed && part.contains(selection.anchorNode)) return true;
  if (part.querySelector("details.do[open]")) return true;
  const active = document.activeElement;
  return part.contains(active) && active.matches("textarea, select, input:not([type=checkbox])");
}

function plan(wait) {
  clearTimeout(timer);
  if (!over) timer = setTimeout(look, wait);
}

function look() {
  if (over || loading || paused || document.hidden) return;
  if (isBusy()) return plan(APART);
  loading = true;
  wanted = false;
  last = performance.now();
  // As a document and not as text: no script here can make markup of a text.
  const request = new XMLHttpRequest();
  request.open("GET", address());
  request.responseType = "document";
  request.timeout = PATIENCE;
  request.addEventListener("loadend", () => {
    loading = false;
    took(request);
    plan(wanted ? APART : Math.min(usual * 2 ** failures, SLOWEST));
  });
  request.send();
}

function took(request) {
  const fresh = request.response?.querySelector("#fresh");
  if (request.status === 200 && fresh) {
    failures = 0;
    say("");
    // It may have been stopped, or a text selected, while the answer was on its way.
    if (!paused && !isBusy()) show(fresh, request.response.title);
  } else {
    failures += 1;
    if (request.status === 401) {
      over = true;
      say("Your session has ended. Sign in again in another tab, then reload.");
    } else if (request.status === 422) {
      over = true; // what was asked for cannot be, as the page says
    } else if (request.status === 404) {
      over = true;
      say("This is not kept any more.");
    } else say(request.status ? `The server answered with an error (${request.status}).` : "The server does not answer; trying again.");
  }
}

function show(fresh, title) {
  const following = Array.from(part.querySelectorAll("[data-follow]")).filter(
    (element) => element.scrollTop + element.clientHeight >= element.scrollHeight - 4,
  );
  localise(fresh);
  morph(part, fresh);
  for (const element of following) element.scrollTop = element.scrollHeight;
  if (document.title !== title) document.title = title;
}

function say(text) {
  if (trouble.textContent !== text) trouble.textContent = text;
}

// Something happened: soon, but but not at every single thing.
export function soon() {
  if (loading) wanted = true;
  else plan(Math.max(0, last + APART - performance.now()));
}

function pause(now) {
  paused = now;
  button.setAttribute("aria-pressed", String(now));
  sessionStorage.setItem("nightcrew-paused", now ? "yes" : "");
  if (!now) soon();
}

localise(document);
for (const element of part.querySelectorAll("[data-follow]")) element.scrollTop = element.scrollHeight;
if (new URL(location.href).searchParams.has("done")) {
  const url = new URL(location.href);
  url.searchParams.delete("done");
  history.replaceState(history.state, "", url);
}
box.hidden = false;
pause(sessionStorage.getItem("nightcrew-paused") === "yes");
button.addEventListener("click", () => pause(!paused));
document.addEventListener("visibilitychange", () => document.hidden || soon());
window.addEventListener("online", soon);
plan(usual);

// One stream a page, and none while nobody looks: browsers open only six connections to one place.
let events = null;
const handlers = new Map([["change", soon], ["job", soon], ["end", ended], ["gone", ended]]);

export const isPaused = () => paused;

export function on(name, handler) {
  handlers.set(name, handler);
  events?.addEventListener(name, heard);
}

function heard(event) {
  handlers.get(event.type)(JSON.parse(event.data));
}

function ended() {
  leave();
  soon();
}

function listen() {
  if (events || over || document.hidden) return;
  events = new EventSource(box.dataset.events);
  for (const name of handlers.keys()) events.addEventListener(name, heard);
}

function leave() {
  events?.close();
  events = null;
}

listen();
document.addEventListener("visibilitychange", () => (document.hidden ? leave() : listen()));
// A page that is kept for "back" must not hold a connection.
window.addEventListener("pagehide", leave);
window.addEventListener("pageshow", (event) => event.persisted && location.reload());
