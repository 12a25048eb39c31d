// The progress page: follows one file or several until the end.

import { act } from "./act.js";
import { show } from "./entry.js";
import { Follower } from "./follow.js";

const page = document.querySelector("#job");
const list = document.querySelector("#files");
const single = list.classList.contains("single");
const files = new Map([...list.children].map((entry) => [entry.dataset.id, entry]));

function told(file) {
  show(files.get(file.id), file);
  if (single) {
    page.dataset.status = file.status;
    const heading = document.querySelector("#status");
    if (heading.textContent !== file.word) heading.textContent = file.word;
    document.title = `${file.word} · ${file.name}`;
  }
}

const follower = new Follower(Number(page.dataset.poll), told);
act(list, (file) => {
  told(file);
  if (!file.settled) follower.follow(file.id);
});
follower.follow(...[...files].filter(([, entry]) => !("settled" in entry.dataset)).map(([id]) => id));
