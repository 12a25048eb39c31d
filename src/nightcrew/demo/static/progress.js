// Follows one job. A poll that fails is no reason to stop: the next one comes later, up to half a minute.
// Only "ok" and "failed" end it.

const SLOWEST = 30_000;
const PATIENCE = 10_000;

const box = document.querySelector("#job");
const part = (id) => box.querySelector(`#${id}`);
const usual = Math.max(50, Number(box.dataset.poll) * 1000);
let wait = usual;
let timer = 0;

function show(job) {
  const final = job.status === "ok" || job.status === "failed";
  box.dataset.status = job.status;
  document.title = `${job.status} · ${job.name}`;
  if (part("status").textContent !== job.status) part("status").textContent = job.status;
  part("name").firstElementChild.textContent = job.name;
  part("text").textContent = job.text ?? "";
  const bar = part("bar");
  bar.hidden = final;
  if (job.progress === null) bar.removeAttribute("value");
  else bar.value = job.progress;
  part("info").hidden = job.status !== "failed";
  part("info").textContent = job.status === "failed" ? job.info : "";
  part("download").hidden = job.status !== "ok";
  part("trouble").hidden = true;
  return final;
}

function reason(response) {
  if (response.status === 401) return "Your session has ended. Open the link that the sample printed at its start in another tab.";
  if (response.status === 404) return "The server does not know this job (any more).";
  return `The server answered with an error (${response.status}).`;
}

function complain(text) {
  wait = Math.min(wait * 2, SLOWEST);
  part("trouble").hidden = false;
  part("trouble").textContent = `${text} Asking again in ${Math.ceil(wait / 1000)} s.`;
}

async function poll() {
  timer = 0;
  try {
    const response = await fetch(`api/status/${box.dataset.job}`, { signal: AbortSignal.timeout(PATIENCE) });
    if (response.ok) {
      if (show(await response.json())) return;
      wait = usual;
    } else complain(reason(response));
  } catch {
    complain("The server does not answer.");
  }
  timer = setTimeout(poll, wait);
}

// Somebody looks again, or the network is back: no need to wait out a long pause.
function now() {
  if (timer === 0) return; // a poll is under way, or the job has ended
  clearTimeout(timer);
  wait = usual;
  poll();
}

if (!["ok", "failed"].includes(box.dataset.status)) timer = setTimeout(poll, usual);
window.addEventListener("online", now);
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && now());
