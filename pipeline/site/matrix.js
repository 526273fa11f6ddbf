// The matrix of all pairs as a picture: a network, a distance, some layers, an order; a cell opens its pair.

import { ticks } from "./charts.js";
import { askedDistance, askedNetwork, distance, drawable, network, picked, settle } from "./choices.js";
import { METRICS, SiteError, pairIndex, short } from "./data.js";
import { chooser, count, h, measure, refill, route, select } from "./dom.js";
import { Heat } from "./heat.js";
import { RAMP } from "./ramp.js";
import { said } from "./links.js";
import { orders, sortable } from "./table.js";

const SQUARED = new Set(["nfd", "fd"]);
const COLUMNS = [{ name: "Dataset" }, { id: "distance", name: "distance" }];
const ORDERS = [
  ["cluster", "similar datasets together"],
  ["name", "by name"],
  ["near", "by distance to…"],
];

export async function show(article, { catalogue, asked, title, keep, say, go, current }) {
  title("Matrix");
  const drawn = drawable(catalogue);
  if (!drawn.length) throw new SiteError("No distances are published yet.");
  const chosen = askedOf(asked, catalogue, drawn);
  asked.ends(1);
  asked.checked();
  const controls = h("div", { class: "controls" });
  const canvas = h("canvas", {
    tabindex: "0",
    role: "application",
    "data-name": "matrix",
    "aria-roledescription": "matrix",
  });
  const readout = h("p", { class: "readout", "aria-live": "polite" });
  const legend = h("div", { class: "legend" });
  const numbers = h("section", { class: "numbers" });
  const button = (label, text, act) =>
    h("button", { type: "button", "aria-label": label, title: label, onclick: act }, text);
  const tools = h(
    "div",
    { class: "tools", role: "group", "aria-label": "Matrix" },
    button("Zoom in", "+", () => heat.zoom(1.6)),
    button("Zoom out", "−", () => heat.zoom(1 / 1.6)),
    button("Whole matrix", "⤢", () => heat.reset()),
  );
  const heading = h("p", { class: "muted" });
  const figure = h("figure", { class: "matrix" }, h("div", { class: "frame" }, canvas, tools));
  article.append(
    h("header", { class: "intro" }, h("h1", {}, "Matrix"), heading),
    controls,
    h("div", { class: "beside" }, figure, h("div", {}, readout, legend, numbers)),
  );
  let state = null;
  let turn = 0;
  const heat = new Heat(canvas, { pointed, opened });
  await choose();
  return () => heat.destroy();

  async function choose(lost = null) {
    const { matrix, metric, layers: known } = picked(catalogue, drawn, chosen);
    const layers = chosen.layers.split(",").filter(Boolean);
    const names = matrix.rows.map((row) => row.dataset);
    const base = chosen.near || names[0];
    const order = chosen.order || "cluster";
    const mine = ++turn;
    say("Reading the matrix…");
    const [pairs, layout] = await Promise.all([
      catalogue.pairs(matrix.spec, metric, layers),
      catalogue.layout(matrix.spec, metric, layers.length === 1 ? layers[0] : ""),
    ]);
    if (!current() || mine !== turn) return;
    const again = (name) => (value) => {
      chosen[name] = value;
      const gone = settle(catalogue, drawn, chosen);
      keep(chosen, name);
      choose(gone);
    };
    refill(controls, {
      spec: network(catalogue, drawn, matrix, again("spec")),
      metric: distance(matrix, metric, again("metric")),
      layers: layerChoice(known, layers, again("layers")),
      order: select("Order", ORDERS, order, again("order")),
      near: chooser(order === "near" ? "Distance to" : "Row of", names, base, again("near")),
      lost,
    });
    if (!pairs) {
      figure.hidden = true;
      heading.textContent = `${count(names.length)} datasets are too many for one picture. The page of each dataset lists the nearest datasets.`;
      numbers.replaceChildren();
      say("");
      return;
    }
    figure.hidden = false;
    const at = (i, j) => (i === j ? 0 : pairs[pairIndex(i, j, matrix.size)]);
    state = { matrix, metric, layers, names, at, unit: matrix.units[metric], base };
    const places = arranged(order, layout, names, at, matrix.place.get(base));
    const scale = scaled(pairs, metric);
    heat.show({ names, order: places, at, share: scale.share });
    draw(legend, scale, metric, state.unit);
    const where = layers.length ? layers.join(", ") : "all layers";
    const all = `${count(names.length)} dataset${names.length === 1 ? "" : "s"}`;
    heading.textContent = `${all} by ${short(metric)}: ${METRICS[metric][1]}; ${where} of ${catalogue.labels.get(matrix.spec)}.`;
    canvas.setAttribute(
      "aria-label",
      `Matrix of ${short(metric)} between ${count(names.length)} datasets in ${where}. Arrow keys move from cell to cell, Enter opens the pair. The table below has the numbers of a row.`,
    );
    pointed(null);
    row(base);
    say(`Matrix of ${short(metric)} in ${where} is shown.`);
  }

  function pointed(pair) {
    if (!pair) {
      readout.replaceChildren(
        "Point at a cell to read the distance, click to open the pair. ",
        h("span", { class: "keys" }, "Arrow keys move by one cell, Shift with arrow keys by ten, + and − zoom, Enter opens the pair."),
      );
      return;
    }
    const [a, b] = pair.map((i) => state.names[i]);
    if (a === b) readout.replaceChildren(h("b", {}, a), " with itself");
    else {
      readout.replaceChildren(
        h("b", {}, a),
        " and ",
        h("b", {}, b),
        ": ",
        h(
          "a",
          { href: route(["pair", a, b], { spec: state.matrix.spec, metric: state.metric, layer: only() }) },
          `${short(state.metric)} ${measure(state.at(...pair))} ${state.unit}`,
        ),
      );
    }
  }

  function opened(i, j) {
    go(["pair", state.names[i], state.names[j]], {
      spec: state.matrix.spec,
      metric: state.metric,
      layer: only(),
    });
  }

  /** The chosen layer, if it is one. */
  function only() {
    return state.layers.length === 1 ? state.layers[0] : "";
  }

  /** The same numbers as a table: one dataset's row. */
  function row(base) {
    const { matrix, metric, names, at, unit } = state;
    const i = matrix.place.get(base);
    const others = names.map((name, j) => ({ name, value: at(i, j) })).filter(({ name }) => name !== base);
    const columns = [
      {
        name: "Dataset",
        key: ({ name }) => name,
        cell: ({ name }) =>
          h("a", { href: route(["pair", base, name], { spec: matrix.spec, metric, layer: only() }) }, name),
      },
      {
        id: "distance",
        name: `${short(metric)} (${unit})`,
        number: true,
        key: ({ value }) => value,
        cell: ({ value }) => measure(value),
      },
    ];
    const table = sortable(`${short(metric)} from ${base}`, columns, others, {
      sort: chosen.sort || "distance",
      shown: chosen.shown,
      step: 12,
      changed: (order, field) => keep(Object.assign(chosen, order), field),
    });
    numbers.replaceChildren(
      h("h2", {}, "Row of ", h("a", { href: route(["dataset", base], { spec: matrix.spec, metric }) }, base)),
      table.element,
    );
  }
}

/** What a link asks for of the matrix. */
function askedOf(asked, catalogue, drawn) {
  const { spec, matrices } = askedNetwork(asked, catalogue, drawn);
  const { metric, known, missing } = askedDistance(asked, catalogue, matrices);
  const layers = asked.one("layers");
  const names = layers.split(",");
  names.forEach((name, i) => {
    if (!layers || (known.includes(name) && names.indexOf(name) === i)) return;
    const others = names.filter((_, j) => j !== i);
    const left = known.filter((layer) => !others.includes(layer));
    const choices = left.map((layer) => [names.with(i, layer).join(","), layer]);
    const why = !name ? "One of these names is empty." : known.includes(name) ? "That layer is named twice." : missing;
    asked.reject("layers", ["The link asks for ", said(`layers=${layers}`), ", which contains ", said(name), ". ", why], choices, name);
  });
  const members = new Set(matrices.flatMap((matrix) => [...matrix.place.keys()]));
  const near = [...members].map((name) => [name, name]);
  return {
    spec,
    metric,
    layers,
    order: asked.one("order", ORDERS, "The matrix has no such order."),
    near: asked.one("near", near, "This matrix has no such dataset."),
    sort: asked.one("sort", orders(COLUMNS), "This table has no such column."),
    shown: asked.number("shown", 1, Infinity, "That is not a number of rows."),
  };
}

function layerChoice(known, layers, changed) {
  if (!known.length) return null;
  const boxes = known.map((layer) => {
    const box = h("input", { type: "checkbox", value: layer, checked: layers.includes(layer) });
    return h("label", {}, box, " ", layer);
  });
  const fieldset = h(
    "fieldset",
    {},
    h("legend", { class: "unseen" }, "Layers; with none selected, all layers count"),
    boxes,
    h("button", { type: "button", class: "quiet", onclick: () => changed("") }, "All layers"),
  );
  fieldset.addEventListener("change", () => {
    const on = [...fieldset.querySelectorAll("input:checked")].map((box) => box.value);
    changed(on.length === known.length ? "" : on.join(","));
  });
  fieldset.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    const details = fieldset.closest("details");
    details.open = false;
    details.querySelector("summary").focus();
  });
  const words = layers.length === 0 ? "all layers" : layers.length === 1 ? layers[0] : `${layers.length} layers`;
  return h(
    "div",
    { class: "field" },
    h("span", { class: "label" }, "Layers"),
    h("details", { class: "drop" }, h("summary", { "aria-label": `Layers: ${words}` }, words), fieldset),
  );
}

function arranged(order, layout, names, at, base) {
  const all = names.map((_, i) => i);
  if (order === "cluster") return [...layout.order];
  const texts = new Intl.Collator("en", { numeric: true });
  return all.sort(order === "name" ? (i, j) => texts.compare(names[i], names[j]) : (i, j) => at(base, i) - at(base, j));
}

/** Colours go evenly with the distance, or with its root where it is in squared units; 0 is the darkest. */
function scaled(pairs, metric) {
  const root = SQUARED.has(metric) ? Math.sqrt : (value) => value;
  const high = pairs.reduce((most, value) => Math.max(most, value), 0);
  const top = root(high) || 1;
  return { high, share: (value) => Math.min(root(value) / top, 1) };
}

function draw(legend, { high, share }, metric, unit) {
  const bar = h("canvas", { width: 256, height: 1, "aria-hidden": "true" });
  const image = new ImageData(256, 1);
  RAMP.forEach((rgb, i) => image.data.set([...rgb, 255], 4 * i));
  bar.getContext("2d").putImageData(image, 0, 0);
  const marks = [0, ...nice(high, SQUARED.has(metric))].map((value) => {
    const mark = h("span", {}, String(Number(value.toPrecision(3))));
    mark.style.left = `${100 * share(value)}%`;
    return mark;
  });
  legend.replaceChildren(
    bar,
    h("div", { class: "ticks" }, marks),
    h("p", { class: "muted" }, `${short(metric)} in ${unit}. Dark cells are similar pairs, light cells are different pairs.`),
  );
}

/** Round numbers along the scale: evenly, or evenly in their roots. */
function nice(high, squared) {
  if (!(high > 0)) return [];
  if (!squared) return ticks(0, high, 5).slice(1);
  const rounded = [0.3, 0.55, 0.8, 1].map((share) => {
    const power = 10 ** Math.floor(Math.log10(share * share * high));
    return Math.floor((share * share * high) / power) * power;
  });
  return [...new Set(rounded)];
}
