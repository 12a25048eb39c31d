// The upload page: files are sent from here, several at once, and their progress is shown below. The form works
// without this module too.

import { act } from "./act.js";
import { show } from "./entry.js";
import { Follower } from "./follow.js";
import { Sender } from "./send.js";
import { announce, say, size } from "./say.js";

const form = document.querySelector("#upload");
const input = form.querySelector("#Upload");
const hint = form.querySelector("#hint");
const list = document.querySelector("#files");
const usual = hint.textContent;

const find = (id) => list.querySelector(`[data-id="${id}"]`);
const follower = new Follower(Number(form.dataset.poll), told);
const sender = new Sender(list, Number(form.dataset.max), (entry, file) => {
  const twin = find(file.id); // of a file that was sent twice, because its first answer was lost
  if (twin && twin !== entry) twin.remove();
  show(entry, file);
  if (!file.settled) follower.follow(file.id);
});

function told(file) {
  const entry = find(file.id);
  if (entry) show(entry, file);
}

act(list, (file) => {
  told(file);
  if (!file.settled) follower.follow(file.id);
});
follower.follow(...[...list.children].filter((entry) => !("settled" in entry.dataset)).map((entry) => entry.dataset.id));

function send(files) {
  document.querySelector(".none").hidden = true;
  return sender.add(files);
}

const plain = (file) => ({ name: file.name, size: file.size, content: file });

// choosing

document.documentElement.classList.add("scripted");
input.required = false;

function look() {
  const files = [...input.files];
  const all = files.reduce((sum, file) => sum + file.size, 0);
  form.classList.toggle("chosen", files.length > 0);
  hint.textContent = files.length === 0 ? usual : files.length === 1 ? `${files[0].name}, ${size(all)}`
    : say("live.chosen", { count: files.length, size: size(all) });
  if (files.length > 0) announce(hint.textContent);
}

input.addEventListener("change", look);
window.addEventListener("pageshow", look);

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const files = [...input.files].map(plain);
  if (files.length === 0) return input.click();
  form.reset();
  look();
  const ids = await send(files);
  // As the form does without a script. Where something was refused, it is told here.
  if (ids.length <= Number(form.dataset.most) && ids.every((id) => id !== null)) {
    location.assign(`/Progress?${ids.map((id) => `jobId=${id}`).join("&")}`);
  }
});

// dropping, anywhere on the page, and pasting

let depth = 0;

const carries = (event) => event.dataTransfer?.types.includes("Files");

document.addEventListener("dragenter", (event) => {
  if (!carries(event)) return;
  depth += 1;
  form.classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!carries(event)) return;
  depth = Math.max(0, depth - 1);
  if (depth === 0) form.classList.remove("over");
});
document.addEventListener("dragover", (event) => carries(event) && event.preventDefault());
document.addEventListener("drop", (event) => {
  if (!carries(event)) return;
  event.preventDefault();
  depth = 0;
  form.classList.remove("over");
  const files = [...event.dataTransfer.items].filter((item) => item.kind === "file").map((item) => {
    const folder = item.webkitGetAsEntry?.()?.isDirectory ?? false;
    const file = item.getAsFile();
    return folder || !file ? { name: file?.name ?? "", size: 1, folder: true } : plain(file);
  });
  if (files.length > 0) send(files);
});
document.addEventListener("paste", (event) => {
  const files = [...(event.clipboardData?.files ?? [])];
  if (files.length > 0) send(files.map(plain));
});
