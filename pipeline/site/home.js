// The first page: a map of all datasets, and below it the table that can be searched.

import { askedLayer, askedNetwork, distance, drawable, network, oneLayer, picked, settle } from "./choices.js";
import { METRICS, short } from "./data.js";
import { count, day, h, measure, refill, route, unique } from "./dom.js";
import { DatasetMap } from "./map.js";
import { orders, sortable } from "./table.js";

export async function show(article, { catalogue, asked, title, keep, say, go, current }) {
  title("");
  const drawn = drawable(catalogue);
  const columns = columnsOf(catalogue);
  const { spec, matrices } = askedNetwork(asked, catalogue, drawn);
  const chosen = {
    spec,
    ...askedLayer(asked, catalogue, matrices),
    q: asked.one("q"),
    sort: asked.one("sort", orders(columns), "This table has no such column."),
    shown: asked.number("shown", 1, Infinity, "That is not a number of rows."),
  };
  asked.ends(1);
  asked.checked();
  const networks = Object.keys(catalogue.specs).length;
  // A dataset that several networks saw has its images once.
  const images = [...catalogue.datasets.values()].reduce((sum, [row]) => sum + row.images, 0);
  const plural = (n, word) => `${count(n)} ${word}${n === 1 ? "" : "s"}`;
  const field = search();
  article.append(
    h(
      "header",
      { class: "intro" },
      h("h1", {}, "Datasets"),
      h(
        "p",
        { class: "muted" },
        `${plural(catalogue.datasets.size, "dataset")}, ${plural(networks, "network")}, ${plural(images, "image")} measured. Published ${day(catalogue.head.created)}.`,
      ),
    ),
  );
  const controls = h("div", { class: "controls" });
  const found = h("p", { class: "muted found" });
  const stage = h("figure", { class: "map" });
  article.append(controls);
  article.append(
    drawn.length ? stage : h("p", { class: "muted" }, "No distances are published yet, so no map can be drawn."),
  );
  const table = sortable("All datasets", columns, [...catalogue.datasets.values()], {
    ...chosen,
    changed: (order, field) => keep(Object.assign(chosen, order), field),
  });
  article.append(h("div", { class: "tablehead" }, h("h2", {}, "All datasets"), found), table.element);
  let map = null;
  let matrix = null;
  let turn = 0;
  await choose();
  filter();
  return () => map?.destroy();

  function search() {
    const id = unique("search");
    const input = h("input", {
      id,
      type: "search",
      value: chosen.q,
      autocomplete: "off",
      spellcheck: "false",
      placeholder: "name, description, licence…",
    });
    let waiting = 0;
    input.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => {
        if (!current()) return;
        Object.assign(chosen, { q: input.value.trim(), shown: "" });
        keep(chosen, "q");
        filter(true);
      }, 80);
    });
    return h("div", { class: "field search" }, h("label", { for: id }, "Search"), input);
  }

  function filter(top = false) {
    const words = chosen.q.toLowerCase().split(/\s+/).filter(Boolean);
    const text = (its) =>
      its.map((row) => [row.dataset, catalogue.labels.get(row.spec), row.licence, row.description].join(" "));
    const fits = (its) => words.every((word) => text(its).join(" ").toLowerCase().includes(word));
    const left = table.filter(words.length ? fits : () => true, top);
    found.textContent = words.length ? `${plural(left, "dataset")} found` : "";
    if (words.length) say(found.textContent);
    map?.match(
      words.length
        ? new Set(matrix.rows.flatMap((row, i) => (fits(catalogue.datasets.get(row.dataset)) ? [i] : [])))
        : null,
    );
  }

  async function choose(note = null) {
    if (!drawn.length) {
      controls.append(field);
      return;
    }
    const { metric, layers, ...its } = picked(catalogue, drawn, chosen);
    matrix = its.matrix;
    const { layer } = chosen;
    const again = (name) => async (value) => {
      chosen[name] = value;
      const lost = settle(catalogue, drawn, chosen);
      keep(chosen, name);
      await choose(lost);
      filter();
    };
    const mine = ++turn;
    const layout = await catalogue.layout(matrix.spec, metric, layer);
    if (!current() || mine !== turn) return;
    refill(controls, {
      spec: network(catalogue, drawn, matrix, again("spec")),
      metric: distance(matrix, metric, again("metric")),
      layer: oneLayer(layers, layer, again("layer")),
      search: field,
      note,
    });
    plot(layout, metric, layer);
  }

  function plot(layout, metric, layer) {
    map?.destroy();
    const names = matrix.rows.map((row) => row.dataset);
    const what = `Map of ${plural(names.length, "dataset")} by ${short(metric)} in ${layer || "all layers"} of ${catalogue.labels.get(matrix.spec)}. The table below lists the same datasets.`;
    const canvas = h("canvas", {
      tabindex: "0",
      role: "application",
      "data-name": "map",
      "aria-roledescription": "map",
      "aria-label": what,
    });
    const readout = h("p", { class: "readout", "aria-live": "polite" });
    const button = (label, text, act) =>
      h("button", { type: "button", "aria-label": label, title: label, onclick: act }, text);
    const tools = h(
      "div",
      { class: "tools", role: "group", "aria-label": "Map" },
      button("Zoom in", "+", () => map.zoom(1.6)),
      button("Zoom out", "−", () => map.zoom(1 / 1.6)),
      button("Whole map", "⤢", () => map.reset()),
    );
    stage.replaceChildren(h("div", { class: "frame" }, canvas, tools), h("figcaption", {}, readout));
    map = new DatasetMap(canvas, points(layout, matrix), {
      focused: (i) => readout.replaceChildren(...(i < 0 ? idle(metric) : about(i))),
      opened: (i) => go(["dataset", names[i]], { spec: matrix.spec, metric }),
    });
    map.draw();
    readout.replaceChildren(...idle(metric));

    function about(i) {
      const unit = matrix.units[metric];
      const near = Array.from({ length: Math.min(3, layout.k) }, (_, rank) => {
        const far = measure(layout.nearDistance[i * layout.k + rank]);
        return `${names[layout.near[i * layout.k + rank]]} (${far})`;
      });
      return [
        h("a", { href: route(["dataset", names[i]], { spec: matrix.spec, metric }) }, names[i]),
        ` · ${plural(matrix.rows[i].images, "image")}`,
        near.length ? ` · nearest, ${short(metric)} in ${unit}: ${near.join(", ")}` : "",
      ];
    }
  }
}

function idle(metric) {
  return [
    `Datasets that lie close together are alike by ${short(metric)} (${METRICS[metric]?.[1] ?? ""}). The colour of a dot follows the clustering, and its size the number of images. `,
    h(
      "span",
      { class: "keys" },
      "Arrow keys select a dataset, Shift with arrow keys moves the map, + and − zoom, Enter opens the dataset.",
    ),
  ];
}

function points(layout, matrix) {
  const { xy, order } = layout;
  const hues = new Float32Array(order.length);
  order.forEach((i, rank) => (hues[i] = rank / order.length));
  const sizes = matrix.rows.map((row) => Math.log10(row.images + 1));
  const [least, most] = [Math.min(...sizes), Math.max(...sizes)];
  const [small, range] = order.length > 300 ? [3, 3.5] : [4.5, 5];
  const radii = sizes.map((size) => small + (most > least ? (range * (size - least)) / (most - least) : range / 3));
  const sides = [0, 1].map((axis) => {
    const all = Array.from({ length: order.length }, (_, i) => xy[2 * i + axis]);
    return [Math.min(...all), Math.max(...all)];
  });
  const middle = sides.map(([low, high]) => (low + high) / 2);
  const extent = sides.map(([low, high]) => (high - low) / 2);
  return { xy, hues, radii, middle, extent, names: matrix.rows.map((row) => row.dataset) };
}

/** Of the table with a line for each dataset, which several networks may have seen. */
function columnsOf(catalogue) {
  const networks = (its) => its.map((row) => catalogue.labels.get(row.spec)).join(", ");
  return [
    {
      name: "Name",
      key: ([row]) => row.dataset,
      cell: ([row]) => h("a", { href: route(["dataset", row.dataset], { spec: row.spec }) }, row.dataset),
    },
    { name: "Network", class: "wide", key: networks, cell: networks },
    { name: "Images", number: true, key: ([row]) => row.images, cell: ([row]) => count(row.images) },
    { name: "Skipped", number: true, class: "wide", key: ([row]) => row.skipped, cell: ([row]) => count(row.skipped) },
    { name: "Licence", class: "wide", key: ([row]) => row.licence ?? "", cell: ([row]) => row.licence },
    {
      name: "Description",
      class: "words",
      key: ([row]) => row.description ?? "",
      cell: ([row]) => row.description && h("span", { dir: "auto" }, row.description),
    },
    {
      name: "Measured",
      class: "wide date",
      down: true,
      key: ([row]) => row.created,
      cell: ([row]) => day(row.created),
    },
  ];
}
