// What is said in the browser, in the language of the page: the texts come with it, from the catalogue.

export const language = document.documentElement.lang;

const texts = JSON.parse(document.body.dataset.texts);
const units = document.body.dataset.units.split(" ");
const plurals = new Intl.PluralRules(language);
const number = new Intl.NumberFormat(language);

export function say(key, values = {}) {
  const forms = texts[key];
  const text = forms[plurals.select(values.count ?? 0)] ?? forms.other ?? forms.many;
  return text.replace(/\{(\w+)\}/g, (_, name) =>
    typeof values[name] === "number" ? number.format(values[name]) : String(values[name]),
  );
}

const steps = [[1e9, 2], [1e6, 1], [1e3, 0]];

export function size(bytes) {
  const step = steps.findIndex(([factor, digits]) => factor === 1e3 || Number((bytes / factor).toFixed(digits)) >= 1);
  const [factor, digits] = steps[step];
  const rounded = Number((bytes / factor).toFixed(digits));
  return `${number.format(Math.max(rounded, Math.min(bytes, 1)))} ${units[step]}`;
}

// For those who do not see it. One region, so that nothing is spoken over; what comes together is said together.
let pending = [];

export function announce(text) {
  pending.push(text);
  if (pending.length > 1) return;
  setTimeout(() => {
    document.querySelector("#news").textContent = pending.join(". ");
    pending = [];
  }, 100);
}
