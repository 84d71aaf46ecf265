/* The maps: every picture of a region under one zoom and pan, and a slider between any two. */

const maps = one("#maps");
const regions = all(".region");
const NEAREST = 4; // from this zoom on pixels are shown as they are

if (regions.length) {
  const choices = { left: one("#left"), right: one("#right") };
  const regionChoice = one("#region");
  const current = () => regions.find(({ dataset }) => dataset.region === view.region) ?? regions[0];
  const figures = () => all("[data-picture]", current());

  // ---- Which region, which two pictures -----------------------------------------------------------------------------------

  /** The figures on both sides: those the view names, else the best model's map over the label. */
  function sides() {
    const list = figures();
    const named = (key) => list.find(({ dataset }) => dataset.picture === key);
    const map = list.find(({ dataset }) => dataset.picture.startsWith("map "));
    return {
      left: named(view.left) ?? named("label") ?? list[0],
      right: named(view.right) ?? map ?? list[list.length - 1],
    };
  }

  watch(["region"], () => {
    const region = current();
    for (const other of regions) other.hidden = other !== region;
    if (regionChoice) regionChoice.value = region.dataset.region;
    for (const choice of Object.values(choices)) {
      choice.replaceChildren(...figures().map((figure) => make("option", { value: figure.dataset.picture }, one(".name", figure).textContent)));
    }
  });

  watch(["region", "left", "right"], () => {
    const shown = sides();
    const stage = one(".stage", current());
    for (const [side, image] of [["left", one(".over img", stage)], ["right", one(".under", stage)]]) {
      const figure = shown[side];
      image.src = one("img", figure).src;
      one(`.tag.${side}`, stage).textContent = one(".name", figure).textContent;
      choices[side].value = figure.dataset.picture;
      for (const other of figures()) one(`[data-side="${side}"]`, other).setAttribute("aria-pressed", String(other === figure));
    }
  });

  regionChoice?.addEventListener("change", () => change({ region: regionChoice.value, zoom: defaults.zoom }));
  for (const [side, choice] of Object.entries(choices)) choice.addEventListener("change", () => change({ [side]: choice.value }));
  for (const button of all("[data-side]", maps)) {
    button.addEventListener("click", () => change({ [button.dataset.side]: button.closest("[data-picture]").dataset.picture }));
  }

  // ---- The slider -------------------------------------------------------------------------------------------------------------

  watch(["at", "region"], () => {
    const at = clamp(Number(view.at) || 0, 0, 100);
    maps.style.setProperty("--at", `${at}%`);
    for (const slider of all(".slider", maps)) slider.value = at;
  });
  for (const slider of all(".slider", maps)) slider.addEventListener("input", () => change({ at: slider.value }));
  for (const divider of all(".divider", maps)) {
    divider.addEventListener("pointerdown", (event) => {
      event.stopPropagation(); // it moves the boundary, not the picture
      event.preventDefault();
      divider.setPointerCapture(event.pointerId);
    });
    divider.addEventListener("pointermove", (event) => {
      if (!divider.hasPointerCapture(event.pointerId)) return;
      const box = divider.parentElement.getBoundingClientRect();
      change({ at: String(clamp(Math.round((1000 * (event.clientX - box.left)) / box.width) / 10, 0, 100)) });
    });
  }

  // ---- Zoom and pan ---------------------------------------------------------------------------------------------------------

  function camera() {
    const [z, x, y] = view.zoom.split(",").map(Number);
    const zoom = clamp(z || 1, 1, 16);
    return { z: zoom, x: clamp(x || 0, 0, 1 - 1 / zoom), y: clamp(y || 0, 0, 1 - 1 / zoom) };
  }

  function look({ z, x, y }) {
    const zoom = clamp(z, 1, 16);
    const round = (value) => String(+value.toFixed(4));
    change({ zoom: [zoom, clamp(x, 0, 1 - 1 / zoom), clamp(y, 0, 1 - 1 / zoom)].map(round).join(",") });
  }

  /** Zoom so that the point at (u, v), shares of the pane, stays where it is. */
  function zoomAt(factor, u = 0.5, v = 0.5) {
    const { z, x, y } = camera();
    const zoom = clamp(z * factor, 1, 16);
    look({ z: zoom, x: x + u / z - u / zoom, y: y + v / z - v / zoom });
  }

  const pan = (du, dv) => { const { z, x, y } = camera(); look({ z, x: x + du / z, y: y + dv / z }); };

  watch(["zoom"], () => {
    const { z, x, y } = camera();
    maps.style.setProperty("--z", z);
    maps.style.setProperty("--x", x);
    maps.style.setProperty("--y", y);
    maps.classList.toggle("zoomed", z > 1);
    maps.classList.toggle("near", z >= NEAREST);
    one("#zoom-level").textContent = `${+z.toFixed(1)}×`;
  });

  for (const button of all("[data-zoom]", maps)) {
    button.addEventListener("click", () => {
      if (button.dataset.zoom === "reset") look({ z: 1, x: 0, y: 0 });
      else zoomAt(button.dataset.zoom === "in" ? 1.5 : 1 / 1.5);
    });
  }

  const within = (pane, event) => {
    const box = pane.getBoundingClientRect();
    return { u: (event.clientX - box.left) / box.width, v: (event.clientY - box.top) / box.height };
  };
  for (const pane of all(".pane", maps)) {
    const fingers = new Map();
    pane.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      fingers.set(event.pointerId, within(pane, event));
      pane.setPointerCapture(event.pointerId);
    });
    pane.addEventListener("pointermove", (event) => {
      const before = fingers.get(event.pointerId);
      if (!before) return;
      const now = within(pane, event);
      const other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
      if (other) {
        const spread = (a) => Math.hypot(a.u - other.u, a.v - other.v);
        if (spread(before) > 0) zoomAt(spread(now) / spread(before), (now.u + other.u) / 2, (now.v + other.v) / 2);
      } else if (camera().z > 1) {
        pan(before.u - now.u, before.v - now.v);
      }
      fingers.set(event.pointerId, now);
    });
    for (const end of ["pointerup", "pointercancel"]) pane.addEventListener(end, (event) => fingers.delete(event.pointerId));
    pane.addEventListener("dblclick", (event) => {
      const { u, v } = within(pane, event);
      zoomAt(event.shiftKey ? 0.5 : 2, u, v);
    });
    pane.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return; // the wheel alone scrolls the page
      event.preventDefault();
      const { u, v } = within(pane, event);
      zoomAt(Math.exp(-event.deltaY / 300), u, v);
    }, { passive: false });
  }
  const KEYS = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] };
  for (const stage of all(".stage", maps)) {
    stage.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (KEYS[event.key] && camera().z > 1) pan(...KEYS[event.key]);
      else if (event.key === "+" || event.key === "=") zoomAt(1.5);
      else if (event.key === "-") zoomAt(1 / 1.5);
      else if (event.key === "0") look({ z: 1, x: 0, y: 0 });
      else return;
      event.preventDefault();
    });
  }
}
