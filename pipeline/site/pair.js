// Two datasets: how far they are by every distance and layer, and in a layer which neurons make the difference.

import { drawable } from "./choices.js";
import { METRICS, SiteError, short } from "./data.js";
import { chooser, count, h, measure, route, select } from "./dom.js";
import { bar } from "./charts.js";
import { published, read, single } from "./neurons.js";
import { COLUMNS, ranked } from "./ranked.js";
import { orders } from "./table.js";

export async function show(article, context) {
  const { catalogue, asked, title, keep, go, say, current } = context;
  const { a, b, rows, matrix, ...chosen } = askedOf(asked, catalogue);
  const id = chosen.spec;
  const spec = catalogue.specs[id];
  title(`${a} and ${b}`);
  const known = [...new Set(catalogue.vdnas.filter((row) => row.spec === id).map((row) => row.dataset))];
  const dataset = (name) => h("a", { href: route(["dataset", name], { spec: id }) }, name);
  article.append(
    h(
      "header",
      { class: "intro" },
      h("h1", {}, h("span", { class: "a" }, a), h("span", { class: "and" }, " and "), h("span", { class: "b" }, b)),
      h(
        "p",
        { class: "muted" },
        `Both measured with ${catalogue.labels.get(id)}. Pages of the datasets: `,
        dataset(a),
        ", ",
        dataset(b),
        ".",
      ),
    ),
    h(
      "div",
      { class: "controls" },
      chooser("First", known, a, (name) => name && go(["pair", name, b], chosen)),
      chooser("Second", known, b, (name) => name && go(["pair", a, name], chosen)),
      h("button", { type: "button", onclick: () => go(["pair", b, a], chosen) }, "Swap"),
    ),
  );
  const overall = h("div", { class: "cards" });
  const layers = h("section", { class: "bylayer" });
  const neurons = h("section", { class: "neurons", "aria-live": "off" });
  article.append(overall, layers, neurons);
  let turn = 0;
  await distances();
  if (chosen.layer && single(spec)) await layer(chosen.layer);

  async function distances() {
    if (!matrix) {
      layers.append(
        h(
          "p",
          { class: "muted" },
          single(spec)
            ? "The distances of this pair are not published yet. The neurons of a layer can be compared nevertheless."
            : "The distances of this pair are not published yet.",
        ),
      );
      list([], {});
      return;
    }
    const [i, j] = [a, b].map((name) => matrix.place.get(name));
    say("Reading the distances…");
    const group = await published(matrix);
    const depth = matrix.layers.length;
    const read = async (metric) => [
      metric,
      {
        layers: await group.read(metric, [
          [i, i + 1],
          [j, j + 1],
          [0, depth],
        ]),
        overall: (
          await group.read(`${metric}_overall`, [
            [i, i + 1],
            [j, j + 1],
          ])
        )[0],
      },
    ];
    const found = Object.fromEntries(await Promise.all(matrix.metrics.map(read)));
    if (!current()) return;
    overall.append(
      ...matrix.metrics.map((metric) =>
        h(
          "div",
          { class: "card" },
          h("p", { class: "label" }, short(metric)),
          h("p", { class: "value" }, measure(found[metric].overall)),
          h("p", { class: "muted" }, matrix.units[metric]),
          h("p", { class: "muted small" }, `${METRICS[metric]?.[1] ?? ""}, over all layers`),
        ),
      ),
    );
    list(matrix.metrics, found);
    say("The distances are shown.");
  }

  function list(metrics, found) {
    const metric = (metrics.length && chosen.metric) || metrics[0];
    const most = metric ? Math.max(...found[metric].layers) || 1 : 1;
    const lines = Object.entries(spec.layers).map(([name, size], at) =>
      h(
        "tr",
        { "data-layer": name, "data-name": `layer ${name}` },
        h(
          "th",
          { scope: "row" },
          single(spec)
            ? h("button", { type: "button", class: "link", onclick: () => choose(name).then(reveal) }, name)
            : name,
        ),
        h("td", { class: "number wide" }, count(size)),
        metrics.map((m) =>
          h("td", { class: `number${m === metric ? " chosen" : " wide"}` }, measure(found[m].layers[at])),
        ),
        metric && h("td", { class: "bars" }, bar(found[metric].layers[at] / most)),
      ),
    );
    const head = [
      ["Layer", ""],
      ["Neurons", "number wide"],
      ...metrics.map((m) => [short(m), m === metric ? "number" : "number wide"]),
    ];
    layers.replaceChildren(
      ...(metric
        ? [
            h(
              "div",
              { class: "tablehead" },
              h("h2", {}, "By layer"),
              bars(metrics, metric, (value) => {
                chosen.metric = value;
                keep(chosen, "metric");
                list(metrics, found);
                mark();
                layers.querySelector("select").focus();
              }),
            ),
          ]
        : [...layers.childNodes]),
      h(
        "p",
        { class: "muted" },
        single(spec)
          ? "Choose a layer to see which neurons of the layer differ."
          : "Single neurons cannot be compared: only whole layers were measured.",
      ),
      h(
        "table",
        {},
        h("caption", { class: "unseen" }, `Distances between ${a} and ${b} by layer`),
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            head.map(([text, kind]) => h("th", { scope: "col", class: kind || null }, text)),
            metric && h("td", { class: "bars" }),
          ),
        ),
        h("tbody", {}, lines),
      ),
    );
  }

  function mark() {
    for (const line of layers.querySelectorAll("tr[data-layer]")) {
      const is = line.dataset.layer === chosen.layer;
      line.classList.toggle("on", is);
      line.querySelector("button")?.setAttribute("aria-pressed", String(is));
    }
  }

  /** Bring what was asked for into view: it lies below a long table. */
  function reveal() {
    const heading = neurons.querySelector("h2");
    heading?.setAttribute("tabindex", "-1");
    heading?.focus({ preventScroll: true });
    neurons.scrollIntoView({ block: "start" });
  }

  async function choose(name) {
    Object.assign(chosen, { layer: name, neuron: "", shown: "" });
    keep(chosen, "layer");
    await layer(name);
  }

  async function layer(name) {
    const mine = ++turn;
    mark();
    const progress = h("p", { class: "muted progress", role: "status" }, `Reading ${name} of both datasets…`);
    neurons.replaceChildren(h("h2", {}, `Neurons of ${name}`), progress);
    let found;
    let reading = true; // when one side has failed, the other still tells how far it is
    try {
      found = await read(catalogue, rows, spec, name, (text) => reading && (progress.textContent = text));
    } catch (error) {
      reading = false;
      if (!(error instanceof SiteError)) throw error;
      if (mine !== turn) return;
      progress.replaceChildren(error.message, " ", error.hint);
      return;
    }
    if (mine !== turn || !current()) return;
    ranked(neurons, [a, b], name, found, chosen, context);
  }
}

/** The pair that a link asks for, and what of it; `matrix` is null where it is in none. */
function askedOf(asked, catalogue) {
  const all = [...catalogue.datasets.keys()];
  const a = asked.dataset(1, all, "This catalogue has no such dataset.");
  const b = asked.dataset(2, all, `This catalogue has no such dataset to compare ${a} with.`);
  asked.ends(3);
  const label = (row) => [row.spec, catalogue.labels.get(row.spec)];
  const both = catalogue.datasets.get(a).filter((row) => catalogue.vdna(b, row.spec).spec === row.spec);
  if (!both.length) {
    const apart = `${a} and ${b} were not measured with the same network, so they cannot be compared.`;
    throw new SiteError(apart, "Each of the two has a page of its own, which lists the nearest datasets.");
  }
  const spec = asked.one("spec", both.map(label), `${a} and ${b} were not both measured with such a network.`);
  const rows = [a, b].map((name) => catalogue.vdna(name, spec || both[0].spec));
  const id = rows[0].spec;
  const found = catalogue.matrices.get(id);
  const matrix = found?.place.has(a) && found.place.has(b) ? found : null;
  // Of a pair in no matrix the page says so; then any distance that there is will do.
  const metrics = matrix ? matrix.metrics : drawable(catalogue).flatMap((one) => one.metrics);
  const whose = catalogue.labels.get(id);
  const options = [...new Set(metrics)].map((one) => [one, short(one)]);
  const { layers } = catalogue.specs[id];
  const names = Object.keys(layers).map((name) => [name, name]);
  const chosen = {
    spec: id,
    metric: asked.one("metric", options, `No such distance of ${whose} is published here.`),
    layer: asked.one("layer", names, `${whose} has no such layer.`),
  };
  if ((chosen.layer || asked.wrong.has("layer")) && single(catalogue.specs[id])) {
    const last = chosen.layer ? layers[chosen.layer] - 1 : Infinity;
    Object.assign(chosen, {
      neuron: asked.number("neuron", 0, last, `${chosen.layer} has neurons 0 to ${last}.`),
      sort: asked.one("sort", orders(COLUMNS), "This table has no such column."),
      shown: asked.number("shown", 1, Infinity, "That is not a number of rows."),
    });
  }
  asked.checked();
  return { a, b, rows, matrix, ...chosen };
}

/** Which distance the bars show. */
function bars(metrics, metric, changed) {
  const options = metrics.map((each) => [each, short(each)]);
  const field = select("Bars show", options, metric, changed);
  field.dataset.name = "bars";
  return field;
}
