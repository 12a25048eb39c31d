// Brings a part of the page to what a fresh copy of it says, touching only what differs: focus, selections, open
// details and scroll positions stay. What has a `data-key` or an id is known again by it.

const key = (node) => node.dataset?.key || node.id || "";
const KEPT = new Set(["open", "data-gone"]);

export function morph(old, fresh) {
  if (old.nodeName !== fresh.nodeName || key(old) !== key(fresh)) {
    old.replaceWith(document.importNode(fresh, true));
  } else if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
  } else {
    attributes(old, fresh);
    if (old.dataset?.rows === undefined) children(old, fresh);
    else rows(old, fresh);
  }
}

function attributes(old, fresh) {
  for (const { name } of Array.from(old.attributes)) {
    if (!fresh.hasAttribute(name) && !KEPT.has(name)) old.removeAttribute(name);
  }
  for (const { name, value } of Array.from(fresh.attributes)) {
    if (old.getAttribute(name) !== value && !KEPT.has(name)) old.setAttribute(name, value);
  }
}

const keyed = (parent) => new Map(Array.from(parent.children, (child) => [key(child), child]).filter(([name]) => name));

function children(old, fresh) {
  const known = keyed(old);
  const wanted = keyed(fresh);
  let at = old.firstChild;
  const drop = () => {
    const next = at.nextSibling;
    at.remove();
    at = next;
  };
  for (const child of Array.from(fresh.childNodes)) {
    while (at && key(at) && !wanted.has(key(at))) drop();
    const name = key(child);
    const match = name ? known.get(name) : at && !key(at) && at.nodeName === child.nodeName ? at : null;
    if (!match) {
      old.insertBefore(document.importNode(child, true), at);
      continue;
    }
    if (match === at) at = at.nextSibling;
    else old.insertBefore(match, at);
    morph(match, child);
  }
  while (at) drop();
}

// Rows stay where they are, whatever order the fresh copy has: nobody who is about to click on one may miss it.
// One that is not there any more is only marked; in a table of slots, the next new one takes its place.
function rows(old, fresh) {
  const wanted = keyed(fresh);
  const free = [];
  for (const [name, row] of keyed(old)) {
    const now = wanted.get(name);
    row.toggleAttribute("data-gone", !now);
    if (now) morph(row, now);
    else free.push(row);
    wanted.delete(name);
  }
  for (const row of wanted.values()) {
    const made = document.importNode(row, true);
    const place = old.dataset.rows === "slots" ? free.shift() : null;
    if (place) place.replaceWith(made);
    else old.append(made);
  }
}
