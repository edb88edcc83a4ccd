"use strict";
/* Draws the figures of the page, as wide as there is room, in the page's colours, light or dark. */
(() => {
  const AXES = 90; // pixels beside a panel
  const NARROW = 560;

  function config(width) {
    const ink = "var(--ink)", note = "var(--note)", grid = "var(--grid)", line = "var(--line)";
    const legend = width < NARROW ? { orient: "bottom", direction: "horizontal", columns: 2, labelLimit: width - 60 } : {};
    return {
      background: null,
      font: "system-ui, sans-serif",
      axis: { labelColor: note, titleColor: ink, gridColor: grid, domainColor: line, tickColor: line, gridOpacity: 1, titleFontWeight: "normal" },
      legend: { labelColor: ink, titleColor: ink, labelFontSize: 12, titleFontWeight: "normal", labelLimit: 260, ...legend },
      header: { labelColor: ink, titleColor: ink, labelLimit: width },
      view: { stroke: grid },
    };
  }

  /** The encodings of a specification and of all that it consists of. */
  function* views(spec) {
    yield spec;
    if (spec.spec) yield* views(spec.spec);
    for (const layer of spec.layer || []) yield* views(layer);
  }

  /** A field that a legend shows, so that a click on it may hide or show what has one of its values. */
  function legendField(spec) {
    for (const view of views(spec)) {
      const color = view.encoding && view.encoding.color;
      if (color && color.field && color.legend !== null) return color.field;
    }
    return null;
  }

  function toggled(spec) {
    const field = legendField(spec);
    if (!field) return;
    let bound = false;
    for (const view of views(spec)) {
      const type = view.mark && (view.mark.type || view.mark);
      const own = view.encoding && view.encoding.color && !view.encoding.color.field;
      if (!["line", "point", "bar", "tick", "area"].includes(type) || own || (view.encoding || {}).opacity) continue;
      view.encoding = view.encoding || {};
      const opacity = view.mark.opacity === undefined ? 1 : view.mark.opacity;
      view.encoding.opacity = { condition: { param: "shown", value: opacity }, value: 0.05 };
      if (!bound) {
        view.params = [...(view.params || []), { name: "shown", select: { type: "point", fields: [field], toggle: "true" }, bind: "legend" }];
        bound = true;
      }
    }
  }

  function fitted(spec, width) {
    for (const view of views(spec)) {
      if (!view.params) continue;
      // A finger that drags moves the page, and a wheel too, unless Shift says that the figure is meant.
      view.params = view.params.filter((param) => param.bind !== "scales" || !matchMedia("(pointer: coarse)").matches);
      for (const param of view.params) {
        if (param.bind === "scales") param.select = { type: "interval", zoom: "wheel![event.shiftKey]" };
      }
    }
    if (spec.facet) {
      const panel = spec.spec;
      const natural = panel.width;
      const columns = Math.max(1, Math.min(spec.columns || 1, Math.floor(width / (natural + AXES))));
      spec.columns = columns;
      panel.width = Math.min(natural * 1.4, width / columns - AXES);
      panel.height = Math.min(panel.height, panel.width);
    } else {
      spec.width = Math.min(width, 1000);
      spec.autosize = { type: "fit-x", contains: "padding" };
    }
    return spec;
  }

  async function draw(place) {
    const width = Math.floor(place.clientWidth);
    if (!width || place.dataset.width === String(width)) return;
    place.dataset.width = String(width);
    const spec = JSON.parse(document.getElementById(place.dataset.spec).textContent);
    toggled(spec);
    fitted(spec, width);
    // Laid over the figure's own, which says nothing of colours.
    const own = spec.config || {};
    const ours = config(width);
    spec.config = {};
    for (const key of new Set([...Object.keys(own), ...Object.keys(ours)])) {
      const plain = ours[key] === null || typeof ours[key] !== "object";
      spec.config[key] = key in ours ? (plain ? ours[key] : { ...own[key], ...ours[key] }) : own[key];
    }
    const options = { renderer: "svg", actions: false, defaultStyle: false, tooltip: { disableDefaultStyle: true }, logLevel: 1 };
    await vegaEmbed(place, spec, options);
    for (const svg of place.querySelectorAll("svg")) {
      svg.setAttribute("aria-hidden", "true"); // the place has a name and a description
    }
  }

  const places = [...document.querySelectorAll(".chart")];
  const all = () => Promise.all(places.map((place) => draw(place).catch((error) => console.error(place.dataset.spec, error))));
  let waiting;
  new ResizeObserver(() => {
    clearTimeout(waiting);
    waiting = setTimeout(all, 150);
  }).observe(document.body);
  all().then(() => document.documentElement.setAttribute("data-drawn", "")); // for who waits for it
})();
