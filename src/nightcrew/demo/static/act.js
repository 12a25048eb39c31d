// Cancel and "try again" without leaving the page. Without this module they are forms that do the same.

import { reason } from "./follow.js";
import { say } from "./say.js";

export function act(list, done) {
  list.addEventListener("submit", async (event) => {
    const form = event.target;
    const entry = form.closest(".file");
    if (!entry.dataset.id) return; // not sent yet: see send.js
    event.preventDefault();
    const button = form.querySelector("button");
    button.setAttribute("aria-disabled", "true");
    let problem = "";
    try {
      const response = await fetch(form.action, { method: "POST", headers: { Accept: "application/json" } });
      if (response.ok) done(await response.json());
      else problem = reason(response.status);
    } catch {
      problem = say("live.silent");
    }
    button.removeAttribute("aria-disabled");
    if (problem) {
      const info = entry.querySelector(".info");
      info.textContent = problem;
      info.hidden = false;
    }
  });
}
