// Tells what was chosen, refuses what is too large before it is sent, and shows that it is being sent.
// The form works without this module too.

const form = document.querySelector("form");
const input = form.querySelector("#Upload");
const button = form.querySelector("button");
const chosen = form.querySelector("#chosen");
const sending = form.querySelector("#sending");
const most = Number(form.dataset.max);
const hint = chosen.textContent;

const size = (bytes) =>
  bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`;

function look() {
  const [file] = input.files;
  let problem = "";
  if (file && file.size === 0) problem = `“${file.name}” is empty.`;
  if (file && file.size > most) problem = `“${file.name}” has ${size(file.size)}; at most ${size(most)} are accepted.`;
  input.setCustomValidity(problem);
  chosen.textContent = !file ? hint : problem || `${file.name}, ${size(file.size)}`;
}

input.addEventListener("change", look);
input.addEventListener("dragover", () => input.classList.add("over"));
for (const end of ["dragleave", "drop"]) input.addEventListener(end, () => input.classList.remove("over"));

form.addEventListener("submit", () => {
  button.disabled = true;
  sending.hidden = false;
});

// Coming back with the browser's "back" shows the page as it was left: make it usable again.
window.addEventListener("pageshow", () => {
  button.disabled = false;
  sending.hidden = true;
  look();
});
