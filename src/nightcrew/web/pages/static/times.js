// Shows times in the reader's own zone. The server writes them in UTC, which is what is seen without this.

const two = (number) => String(number).padStart(2, "0");
const clock = (at) => `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
const day = (at) => `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;

export function localise(part) {
  for (const element of part.querySelectorAll("time[datetime]")) {
    const at = new Date(element.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    const whole = `${day(at)} ${clock(at)}`;
    if (element.classList.contains("clock")) element.textContent = clock(at);
    else if (element.classList.contains("day")) element.textContent = day(at);
    else if (element.textContent.endsWith(" UTC")) element.textContent = whole;
    if (element.title) element.title = whole;
  }
  for (const element of part.querySelectorAll("title[data-at]")) {
    const at = new Date(element.dataset.at);
    element.textContent = element.textContent.replace(/^[^:]+:[^:]+:[^:]+ UTC/, `${day(at)} ${clock(at).slice(0, 5)}`);
  }
}
