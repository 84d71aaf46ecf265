"use strict";
/* The page's behaviour. Data reaches the document as text or attribute values only, never as markup. */

// ---- Small helpers ------------------------------------------------------------------------------------------------

const data = JSON.parse(document.getElementById("data").textContent);
const one = (selector, within = document) => within.querySelector(selector);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// ---- The view: all that a link keeps --------------------------------------------------------------------------------

const defaults = Object.freeze({
  sort: "rank", order: "", find: "", columns: "main", floors: "yes", model: "", memory: "", time: "", off: "",
  region: "", left: "", right: "", at: "50", zoom: "1,0,0",
});
const view = { ...defaults };
const watchers = [];
let saving = 0;

/** Call `render` now and whenever one of these parts of the view changes. */
function watch(keys, render) {
  watchers.push({ keys, render });
  render();
}

function change(parts, save = true) {
  const changed = Object.keys(parts).filter((key) => view[key] !== parts[key]);
  if (!changed.length) return;
  Object.assign(view, parts);
  for (const { keys, render } of watchers) if (keys.some((key) => changed.includes(key))) render();
  if (save) {
    clearTimeout(saving); // browsers refuse hundreds of changes of the address in a row, as dragging makes
    saving = setTimeout(keepInAddress, 120);
  }
}

function keepInAddress() {
  try {
    history.replaceState(null, "", address());
  } catch { /* a page inside another one's frame has no address of its own */ }
}

function address() {
  const kept = Object.entries(view).filter(([key, value]) => value !== defaults[key]);
  const text = new URLSearchParams(kept).toString();
  return text ? `#${text}` : location.pathname + location.search;
}

function viewOfAddress() {
  const found = { ...defaults };
  for (const [key, value] of new URLSearchParams(location.hash.slice(1))) if (Object.hasOwn(defaults, key)) found[key] = value;
  return found;
}

Object.assign(view, viewOfAddress());
window.addEventListener("hashchange", () => change(viewOfAddress(), false));

// Links inside the page scroll; they must not take the view's place in the address.
for (const link of all("nav a, .skip")) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    const target = one(link.getAttribute("href"));
    target.scrollIntoView();
    target.setAttribute("tabindex", "-1");
    target.focus({ preventScroll: true });
  });
}

// ---- Light and dark: the reader's own choice, not part of a link ------------------------------------------------------

for (const choice of all('[name="theme"]')) {
  choice.checked = choice.value === (kept() || "auto");
  choice.addEventListener("change", () => { kept(choice.value); setTheme(choice.value); });
}

// ---- The table: sort, filter, columns -----------------------------------------------------------------------------------

const table = one("#table");
const heads = all("thead th[data-key]", table);
const bodies = all("tbody", table).map((body) => ({ body, rows: all("tr.entry", body) }));
const allRows = bodies.flatMap(({ rows }) => rows);

function valueOf(row, key) {
  const text = [...row.children].find(({ dataset }) => dataset.key === key)?.dataset.value ?? "";
  if (key === "model") return text;
  return text === "" ? null : Number(text);
}

/** Rows by a key, each part of the table for itself, none last; equal ones keep the order of the ranking. */
function sorted(rows, key, sign) {
  const keyed = rows.map((row) => ({ row, value: valueOf(row, key) }));
  keyed.sort((a, b) => {
    if (a.value === null || b.value === null) return (a.value === null) - (b.value === null);
    return sign * (typeof a.value === "string" ? a.value.localeCompare(b.value) : a.value - b.value);
  });
  return keyed.map(({ row }) => row);
}

const chooser = one("#sort");
for (const head of heads) chooser.append(make("option", { value: head.dataset.key }, one("button", head).textContent));

watch(["sort", "order"], () => {
  const head = heads.find(({ dataset }) => dataset.key === view.sort) ?? heads[0];
  const key = head.dataset.key;
  const order = view.order === "up" || view.order === "down" ? view.order : head.dataset.first;
  for (const other of heads) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", order === "up" ? "ascending" : "descending");
  chooser.value = key;
  for (const { body, rows } of bodies) {
    // Within a rank the page's own order holds: least memory first.
    const plain = key === "rank" && order === "up";
    body.append(...(plain ? rows : sorted(rows, key, order === "up" ? 1 : -1)));
  }
});
for (const head of heads) {
  one("button", head).addEventListener("click", () => {
    const again = head.getAttribute("aria-sort") !== "none";
    const turned = head.getAttribute("aria-sort") === "ascending" ? "down" : "up";
    const order = again ? turned : head.dataset.first;
    change({ sort: head.dataset.key, order: order === head.dataset.first ? "" : order });
  });
}
chooser.addEventListener("change", () => change({ sort: chooser.value, order: "" }));

const filter = one("#filter");
const showFloors = one("#show-floors");
watch(["find", "floors"], () => {
  const words = view.find.toLowerCase().split(/\s+/).filter(Boolean);
  if (filter.value !== view.find) filter.value = view.find;
  showFloors.checked = view.floors !== "no";
  let shown = 0;
  for (const { body, rows } of bodies) {
    const off = ["floors", "controls"].includes(body.dataset.part) && view.floors === "no";
    let left = 0;
    for (const row of rows) {
      const text = row.dataset.find.toLowerCase();
      row.hidden = off || !words.every((word) => text.includes(word));
      left += !row.hidden;
    }
    body.hidden = left === 0;
    shown += left;
  }
  one("#count").textContent = shown === allRows.length ? `${shown} rows` : `${shown} of ${allRows.length} rows`;
  one("#nothing").hidden = shown > 0;
});
filter.addEventListener("input", () => change({ find: filter.value }));
showFloors.addEventListener("change", () => change({ floors: showFloors.checked ? "yes" : "no" }));

const selections = all('[name="columns"]');
watch(["columns"], () => {
  const chosen = selections.find(({ value }) => value === view.columns) ?? selections[0];
  chosen.checked = true;
  table.dataset.columns = chosen.value;
});
for (const choice of selections) choice.addEventListener("change", () => change({ columns: choice.value }));

// ---- The drawer: one dialog a configuration -------------------------------------------------------------------------------

const drawers = all("dialog.drawer");

function openDrawer(label) {
  change({ model: label });
}

watch(["model"], () => {
  const wanted = drawers.find(({ dataset }) => dataset.label === view.model);
  for (const drawer of drawers) if (drawer.open && drawer !== wanted) drawer.close();
  if (wanted && !wanted.open) {
    wanted.showModal();
    wanted.scrollTop = 0;
  }
});
for (const drawer of drawers) {
  drawer.addEventListener("close", () => { if (view.model === drawer.dataset.label) change({ model: "" }); });
  drawer.addEventListener("click", (event) => { if (event.target === drawer) drawer.close(); }); // beside it
}
for (const row of allRows) {
  one(".open", row).addEventListener("click", (event) => {
    event.preventDefault();
    openDrawer(row.dataset.label);
  });
}
