// One file in a list: shows what the server, or the sending of it, tells.

import { announce, say, size } from "./say.js";

export const make = () => document.querySelector("#entry").content.firstElementChild.cloneNode(true);

// Called each time something is told, so only what differs is touched: nothing flickers, and no reader starts anew.
function set(element, property, value) {
  if (element[property] !== value) element[property] = value;
}

function hide(element, hidden) {
  if (hidden && element.contains(document.activeElement)) element.closest(".file").focus({ preventScroll: true });
  set(element, "hidden", hidden);
}

export function show(entry, file) {
  const part = (selector) => entry.querySelector(selector);
  const changed = entry.dataset.status !== file.status;
  if (file.id && entry.dataset.id !== file.id) name(entry, file.id);
  entry.dataset.status = file.status;
  entry.toggleAttribute("data-settled", Boolean(file.settled));
  entry.toggleAttribute("data-cancelled", Boolean(file.cancelled));
  set(part("bdi"), "textContent", file.name);
  set(part(".word"), "textContent", file.label);
  set(part(".size"), "textContent", size(file.size));
  set(part(".text"), "textContent", file.text ?? "");
  set(part(".info"), "textContent", file.status === "failed" ? file.info : "");
  hide(part(".info"), file.status !== "failed");
  bar(part("progress"), file);
  picture(part(".picture img"), file);
  hide(part(".download"), file.status !== "ok");
  hide(part(".retry"), !file.can.includes("retry"));
  hide(part(".cancel"), !file.can.includes("cancel"));
  if (changed && file.status !== "sending") announce(say("live.news", { name: file.name, word: file.label }));
}

function name(entry, id) {
  entry.dataset.id = id;
  entry.querySelector(".name").id = `name-${id}`;
  for (const described of entry.querySelectorAll("[aria-describedby]")) described.setAttribute("aria-describedby", `name-${id}`);
  entry.querySelector(".download").href = `/api/result/${id}`;
  entry.querySelector(".retry").action = `/api/retry/${id}`;
  entry.querySelector(".cancel").action = `/api/cancel/${id}`;
}

function bar(progress, file) {
  hide(progress, file.status !== "processing" && file.status !== "sending");
  if (file.progress === null) progress.removeAttribute("value");
  else set(progress, "value", file.progress);
}

function picture(image, file) {
  if (!file.picture || image.getAttribute("src") === `/${file.picture}`) return;
  image.addEventListener("load", () => { image.hidden = false; }, { once: true });
  image.alt = file.picture_text;
  image.src = `/${file.picture}`;
}
