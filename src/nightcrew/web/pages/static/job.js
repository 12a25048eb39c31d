// Follows one job closely: its progress and its log as they come. All else about it is asked for by live.js.

import { isPaused, on, soon } from "./live.js";
import { localise } from "./times.js";

const MOST = 500;

on("progress", ({ progress, progress_text: text }) => {
  const bar = document.querySelector("#progress progress");
  if (isPaused()) return;
  if (!bar) return soon();
  if (progress !== null) bar.value = progress;
  write("#progress-part", progress === null ? "" : `${Math.round(progress * 100)}%`);
  write("#progress-words", text ?? "");
});

on("log", ({ first, lines }) => {
  const log = document.querySelector("#log");
  if (isPaused()) return;
  const known = Number(log.dataset.count);
  const fresh = lines.slice(Math.max(0, known - first));
  if (first > known) return soon();
  const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 4;
  for (const line of fresh) log.append(entry(line));
  log.dataset.count = String(known + fresh.length);
  while (log.children.length > MOST) log.firstElementChild.remove();
  document.querySelector("#no-log")?.remove();
  if (atEnd) log.scrollTop = log.scrollHeight;
});

function write(selector, text) {
  const element = document.querySelector(selector);
  if (element.textContent !== text) element.textContent = text;
}

function entry({ at, level, text }) {
  const line = document.createElement("li");
  line.className = level;
  const time = Object.assign(document.createElement("time"), { className: "clock", dateTime: at, title: at });
  const word = Object.assign(document.createElement("span"), { className: "level", textContent: level });
  const words = Object.assign(document.createElement("bdi"), { textContent: text });
  line.append(time, " ", word, " ", words);
  localise(line);
  return line;
}
