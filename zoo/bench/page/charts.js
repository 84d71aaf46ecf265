/* The charts: Dice against a cost with the Pareto front, and learning curves. Drawn anew when their width changes. */

// ---- Drawing ----------------------------------------------------------------------------------------------------------------

function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const short = (text, most = 26) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
const written = (value) => (value === null ? "–" : value >= 100 ? Math.round(value).toLocaleString("en") : value.toPrecision(3));
const large = (value) => (value >= 1e6 ? `${+(value / 1e6).toPrecision(3)} M` : `${+value.toPrecision(3)}`);

/** Ticks of a linear axis: round numbers, about as many as asked for. */
function ticks(low, high, about = 5) {
  const rough = (high - low) / about;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((times) => times * power >= rough);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at++) found.push(+(at * step).toPrecision(10));
  return found;
}

/** Ticks of a logarithmic axis: 1, 2 and 5 of each power of ten; over more than three powers only 1. */
function logTicks(low, high) {
  const times = Math.log10(high / low) > 3 ? [1] : [1, 2, 5];
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    for (const digit of times) {
      const value = digit * 10 ** power;
      if (value >= low && value <= high) found.push(value);
    }
  }
  return found.length > 1 ? found : ticks(low, high, 3);
}

function axes(chart, { width, height, left, right, top, bottom }, x, y, xTicks, yTicks, xName, yName) {
  for (const value of yTicks) {
    chart.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
    const text = svg("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" });
    text.textContent = large(value);
    chart.append(text);
  }
  let end = -Infinity;
  for (const value of xTicks) {
    const text = svg("text", { x: x(value), y: height - bottom + 18, "text-anchor": "middle" });
    text.textContent = large(value);
    chart.append(text);
    const box = text.getBBox();
    if (box.x < end + 6) text.remove(); // a narrow page has room for fewer
    else end = box.x + box.width;
  }
  chart.append(svg("line", { class: "axis-line", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }));
  const below = svg("text", { x: width - right, y: height - 4, "text-anchor": "end" });
  below.textContent = xName;
  const above = svg("text", { x: 0, y: 11 });
  above.textContent = yName;
  chart.append(below, above);
}

/** Redraw when the box gets another width; its height is fixed, so nothing moves. */
function drawnIn(box, draw) {
  let last = 0;
  const redraw = () => {
    const width = box.clientWidth;
    if (!width) return;
    last = width;
    const height = box.clientHeight;
    const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "group" });
    box.replaceChildren(chart);
    draw(chart, width, height);
  };
  new ResizeObserver(() => { if (box.clientWidth !== last) redraw(); }).observe(box);
  return redraw;
}

// ---- Tooltips -----------------------------------------------------------------------------------------------------------------

const tip = one("#tip");

function showTip(text, x, y) {
  tip.textContent = text;
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = clamp(x + 14, 6, innerWidth - width - 6);
  const top = y + 14 + height > innerHeight ? y - height - 10 : y + 14;
  tip.style.transform = `translate(${left}px, ${Math.max(top, 6)}px)`;
}

const hideTip = () => { tip.hidden = true; };
window.addEventListener("scroll", hideTip, { passive: true });
window.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });

// ---- Quality against cost -----------------------------------------------------------------------------------------------------

const nearest = (box, { x, y }) => ({ x: clamp(x, box.x, box.x + box.width), y: clamp(y, box.y, box.y + box.height) });
const distance = (box, point) => Math.hypot(point.x - nearest(box, point).x, point.y - nearest(box, point).y);
const overlap = (a, b) => a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;

/** Put a label beside its point where it covers nothing that is drawn; further off with a line to it; else leave it out. */
function placeLabel(group, text, point, others, taken, bounds) {
  const label = svg("text", { class: "name" });
  label.textContent = short(text);
  group.append(label);
  const { width, height } = label.getBBox();
  for (const reach of [9, 20, 34, 50, 70]) {
    for (const [dx, dy] of [[1, -0.6], [1, 0.6], [-1, -0.6], [-1, 0.6], [1, 0], [-1, 0], [0, -1], [0, 1], [0.5, -1], [-0.5, -1], [0.5, 1], [-0.5, 1]]) {
      const x = point.x + dx * reach - (dx < 0 ? width : dx === 0 ? width / 2 : 0);
      const y = point.y + dy * reach - height / 2;
      const box = { x: x - 2, y: y - 1, width: width + 4, height: height + 2 };
      const inside = x >= bounds.x && x + width <= bounds.x + bounds.width && y >= bounds.y && y + height <= bounds.y + bounds.height;
      if (!inside || taken.some((other) => overlap(box, other))) continue;
      label.setAttribute("x", x);
      label.setAttribute("y", y + height * 0.78);
      taken.push(box);
      const own = distance(box, point);
      if (own > 14 || others.some((other) => other !== point && distance(box, other) <= own + 3)) {
        const near = nearest(box, point);
        group.prepend(svg("path", { class: "leader", d: `M${point.x} ${point.y}L${near.x} ${near.y}` }));
      }
      return;
    }
  }
  label.remove(); // its tooltip still tells it
}

function scatter(chart, width, height, key, words) {
  const points = data.points.filter((point) => point.dice !== null && !point.control); // what a control scores is no claim
  const placed = points.filter((point) => point[key]);
  const free = points.filter((point) => point.floor && !point[key]);
  if (!placed.length) return;
  const frame = { width, height, left: 44, right: 14, top: 26, bottom: 44 };
  const ends = points.flatMap((point) => [point.low ?? point.dice, point.high ?? point.dice]);
  let [low, high] = [Math.min(...ends), Math.max(...ends)];
  const room = Math.max(0.08 * (high - low), 0.01);
  [low, high] = [Math.max(low - room, 0), Math.min(high + room, 1)];
  const costs = placed.map((point) => point[key]);
  const [least, most] = [Math.min(...costs) / 1.4, Math.max(...costs) * 1.9];
  const x = (value) => frame.left + (Math.log(value / least) / Math.log(most / least)) * (width - frame.left - frame.right);
  const y = (value) => height - frame.bottom - ((value - low) / (high - low)) * (height - frame.top - frame.bottom);
  chart.setAttribute("aria-label", `Dice against ${words}`);
  axes(chart, frame, x, y, logTicks(least, most), ticks(low, high), words, "Dice");

  const bounds = { x: frame.left, y: 14, width: width - frame.left - frame.right, height: height - frame.bottom - 16 };
  const taken = [];
  // Floors that cost nothing: a line each; those that would fall on one another share it.
  const lines = [];
  for (const floor of free.sort((a, b) => b.dice - a.dice)) {
    const near = lines.find((line) => Math.abs(line.at - y(floor.dice)) < 14);
    if (near) near.names.push(floor.label);
    else lines.push({ at: y(floor.dice), names: [floor.label] });
  }
  for (const line of lines) {
    chart.append(svg("line", { class: "nothing", x1: frame.left, x2: width - frame.right, y1: line.at, y2: line.at }));
    const label = svg("text", { class: "floor-name", x: width - frame.right, y: line.at - 5, "text-anchor": "end" });
    label.textContent = short(line.names.join(", "), 48);
    chart.append(label);
    taken.push(label.getBBox());
  }
  const front = data.fronts[key].map((id) => points.find((point) => point.id === id)).filter(Boolean);
  if (front.length) {
    const steps = front.map((point, index) => `${index ? `H${x(point[key])}V` : `M${x(point[key])} `}${y(point.dice)}`);
    chart.append(svg("path", { class: "front", d: `${steps.join("")}H${width - frame.right}` }));
    for (const [index, point] of front.entries()) { // labels keep off the front's steps
      const from = { x: x(point[key]), y: y(point.dice) };
      const next = front[index + 1];
      const end = next ? x(next[key]) : width - frame.right;
      taken.push({ x: from.x, y: from.y - 1, width: end - from.x, height: 2 });
      if (next) taken.push({ x: end - 1, y: y(next.dice), width: 2, height: from.y - y(next.dice) });
    }
  }
  const marks = placed.map((point) => {
    const at = { x: x(point[key]), y: y(point.dice) };
    taken.push({ x: at.x - 6, y: at.y - 6, width: 12, height: 12 });
    if (point.low !== null && point.high !== null) {
      taken.push({ x: at.x - 1, y: y(point.high), width: 2, height: y(point.low) - y(point.high) });
    }
    return { point, at };
  });
  const names = [];
  for (const { point, at } of marks) {
    const best = data.fronts[key].includes(point.id);
    const told = `${point.label}\nDice ${point.dice.toFixed(3)}` +
      (point.low !== null && point.high !== null ? ` [${point.low.toFixed(3)}, ${point.high.toFixed(3)}]` : "") +
      `\n${words}: ${written(point[key])}\n${point.floor ? "a floor" : `rank ${point.rank}`}${best ? ", on the Pareto front" : ""}` +
      (point.verdict === "failed" ? "\nfails a control" : point.verdict === "not checked" ? "\na control was not checked" : "");
    const mark = svg("g", {
      class: `mark${best ? " best" : ""}${point.floor ? " grey" : ""}`, tabindex: 0, role: "button", "aria-label": told.replaceAll("\n", ", "),
    });
    if (point.low !== null && point.high !== null) mark.append(svg("line", { x1: at.x, x2: at.x, y1: y(point.high), y2: y(point.low) }));
    const dot = point.verdict === "failed"
      ? svg("path", { class: "dot", d: `M${at.x - 5} ${at.y - 5}l10 10m0 -10l-10 10` })
      : svg("circle", { class: "dot", cx: at.x, cy: at.y, r: 5 });
    mark.append(dot, svg("circle", { class: "reach", cx: at.x, cy: at.y, r: 14 }));
    mark.addEventListener("pointermove", (event) => showTip(told, event.clientX, event.clientY));
    mark.addEventListener("pointerleave", hideTip);
    mark.addEventListener("focus", () => {
      const box = mark.getBoundingClientRect();
      if (mark.matches(":focus-visible")) showTip(told, box.right, box.top);
    });
    mark.addEventListener("blur", hideTip);
    mark.addEventListener("click", () => { hideTip(); openDrawer(point.label); });
    mark.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      hideTip();
      openDrawer(point.label);
    });
    chart.append(mark);
    const name = svg("g", { class: point.floor ? "grey" : "" });
    names.push({ name, point, at, first: best ? 0 : point.floor ? 2 : 1 });
  }
  const layer = svg("g", { "aria-hidden": "true", "pointer-events": "none" });
  chart.append(layer);
  for (const { name, point, at } of names.sort((a, b) => a.first - b.first)) {
    layer.append(name);
    placeLabel(name, point.name, at, marks.map((mark) => mark.at), taken, bounds);
  }
}

for (const name of ["memory", "time"]) {
  const box = one(`#chart-${name}`);
  const choose = one(`select[data-chart="${name}"]`);
  const measures = Object.entries(data.measures[name]);
  if (!measures.length) {
    box.replaceChildren(make("p", { class: "note" }, "No run has this measure."));
    choose.parentElement.hidden = true;
    box.style.height = "auto";
    continue;
  }
  for (const [key, words] of measures) choose.append(make("option", { value: key }, words));
  const chosen = () => measures.find(([key]) => key === view[name]) ?? measures[0];
  const redraw = drawnIn(box, (chart, width, height) => {
    const [key, words] = chosen();
    const kind = data.memory_kind && key.endsWith("_mb") ? ` (${data.memory_kind})` : "";
    scatter(chart, width, height, key, words + kind);
  });
  watch([name], () => { [choose.value] = chosen(); redraw(); });
  choose.addEventListener("change", () => change({ [name]: choose.value === measures[0][0] ? "" : choose.value }));
}

// ---- Learning curves -------------------------------------------------------------------------------------------------------------

const DASHES = ["", "6 3", "9 3 2 3"];
const pointOf = (id) => data.points.find((point) => point.id === id);
const curveIds = all("#legend button").map(({ dataset }) => dataset.id);
const styleOf = (id) => {
  if (pointOf(id).floor || pointOf(id).control) return { stroke: "var(--muted)", dash: "2 3" };
  const index = curveIds.indexOf(id);
  return { stroke: `var(--series-${(index % 6) + 1})`, dash: DASHES[Math.floor(index / 6) % DASHES.length] };
};
const labelOf = (id) => pointOf(id).name;

function strokeOf(id) {
  const { stroke, dash } = styleOf(id);
  return `stroke: ${stroke};${dash ? ` stroke-dasharray: ${dash};` : ""}`;
}

/** Configurations whose curves are hidden, by their place in the legend: a link keeps them as `off=0.3`. */
const hiddenCurves = () => new Set(view.off.split(".").filter((part) => /^\d+$/.test(part)).map((part) => curveIds[part]));

function curves(chart, width, height) {
  const off = hiddenCurves();
  const shown = data.curves.filter(({ id }) => !off.has(id));
  const points = (shown.length ? shown : data.curves).flatMap((curve) => curve.points);
  const frame = { width, height, left: 48, right: 14, top: 26, bottom: 44 };
  const losses = points.map(([, loss]) => loss);
  const [least, most] = [losses.reduce((a, b) => Math.min(a, b)), losses.reduce((a, b) => Math.max(a, b))];
  const log = least > 0 && most / least > 30;
  const room = Math.max(0.05 * (most - least), 1e-6);
  const [low, high] = log ? [least / 1.2, most * 1.2] : [least >= 0 ? Math.max(least - room, 0) : least - room, most + room];
  const end = points.reduce((a, [step]) => Math.max(a, step), 1);
  const x = (step) => frame.left + (step / end) * (width - frame.left - frame.right);
  const share = (loss) => (log ? Math.log(loss / low) / Math.log(high / low) : (loss - low) / (high - low));
  const y = (loss) => height - frame.bottom - share(loss) * (height - frame.top - frame.bottom);
  chart.setAttribute("aria-label", "Training loss against steps");
  chart.setAttribute("role", "img");
  axes(chart, frame, x, y, ticks(0, end), log ? logTicks(low, high) : ticks(low, high), "step", "training loss");
  for (const { id, fold, seed, points: run } of shown) {
    const d = run.map(([step, loss], index) => `${index ? "L" : "M"}${x(step).toFixed(1)} ${y(loss).toFixed(1)}`).join("");
    // A single point is a line of no length; round caps make it a dot.
    const path = svg("path", { class: "curve", d: run.length === 1 ? `${d}h.01` : d, style: strokeOf(id), "stroke-linecap": "round", "data-id": id });
    path.addEventListener("pointermove", (event) => {
      const box = chart.getBoundingClientRect();
      const step = ((event.clientX - box.left - frame.left) / (width - frame.left - frame.right)) * end;
      const near = run.reduce((a, b) => (Math.abs(b[0] - step) < Math.abs(a[0] - step) ? b : a));
      showTip(`${labelOf(id)}\nfold ${fold}, seed ${seed}\nstep ${large(near[0])}, loss ${near[1].toPrecision(4)}`, event.clientX, event.clientY);
      bring(id);
    });
    path.addEventListener("pointerleave", () => { hideTip(); bring(null); });
    chart.append(path);
  }
}

function bring(id) {
  for (const path of all("#chart-curves .curve")) path.classList.toggle("away", id !== null && path.dataset.id !== id);
}

if (curveIds.length) {
  const legend = one("#legend");
  for (const button of all("button", legend)) {
    const { id } = button.dataset;
    one("path", button).setAttribute("style", strokeOf(id));
    button.addEventListener("click", () => {
      const off = hiddenCurves();
      if (!off.delete(id)) off.add(id);
      change({ off: curveIds.flatMap((other, place) => (off.has(other) ? [place] : [])).join(".") });
    });
    for (const event of ["pointerenter", "focus"]) button.addEventListener(event, () => bring(id));
    for (const event of ["pointerleave", "blur"]) button.addEventListener(event, () => bring(null));
  }
  const redraw = drawnIn(one("#chart-curves"), curves);
  watch(["off"], () => {
    const off = hiddenCurves();
    for (const [index, button] of all("button", legend).entries()) button.setAttribute("aria-pressed", String(!off.has(curveIds[index])));
    redraw();
  });
}
