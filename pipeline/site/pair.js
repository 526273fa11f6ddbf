// Two datasets: how far they are by every distance and layer, and in a layer which neurons make the difference.

import { METRICS, SiteError, short } from "./data.js";
import { chooser, count, h, measure, route, select, unique } from "./dom.js";
import { bar, key, overlay } from "./charts.js";
import { published, read, single } from "./neurons.js";
import { sortable } from "./table.js";

export async function show(article, context) {
  const { catalogue, parameters, names, title, keep, go, say, current } = context;
  const [a, b] = names;
  const first = catalogue.vdna(a ?? "", parameters.spec);
  if (!first) throw new SiteError(`There is no dataset ${a}.`);
  const rows = [first, b ? catalogue.vdna(b, first.spec) : null];
  if (!rows[1]) throw new SiteError(`There is no dataset ${b ?? ""} to compare ${a} with.`);
  if (rows[1].spec !== first.spec) {
    // The first may have been measured with the second's network as well.
    const other = catalogue.vdna(a, rows[1].spec);
    if (other.spec !== rows[1].spec)
      throw new SiteError(`${a} and ${b} were not measured by the same network, so nothing can be compared.`);
    rows[0] = other;
  }
  const id = rows[0].spec;
  const spec = catalogue.specs[id];
  const matrix = catalogue.matrices.get(id);
  const chosen = { spec: id, metric: parameters.metric, layer: parameters.layer, neuron: parameters.neuron };
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
        `Compared by ${catalogue.labels.get(id)}. About `,
        dataset(a),
        "; about ",
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
  if (chosen.layer && single(spec)) await layer(chosen.layer, chosen.neuron);

  async function distances() {
    const [i, j] = [a, b].map((name) => matrix?.place.get(name));
    if (i === undefined || j === undefined) {
      layers.append(
        h(
          "p",
          { class: "muted" },
          single(spec)
            ? "Their distances are not in a published matrix yet; the neurons of a layer can be compared all the same."
            : "Their distances are not in a published matrix yet.",
        ),
      );
      list([], {});
      return;
    }
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
    const metric = metrics.includes(chosen.metric) ? chosen.metric : metrics[0];
    const most = metric ? Math.max(...found[metric].layers) || 1 : 1;
    const lines = Object.entries(spec.layers).map(([name, size], at) =>
      h(
        "tr",
        { "data-layer": name },
        h(
          "th",
          { scope: "row" },
          single(spec)
            ? h("button", { type: "button", class: "link", onclick: () => layer(name).then(reveal) }, name)
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
              select(
                "Bars show",
                metrics.map((m) => [m, short(m)]),
                metric,
                (value) => {
                  chosen.metric = value;
                  keep(chosen);
                  list(metrics, found);
                  mark();
                  layers.querySelector("select").focus();
                },
              ),
            ),
          ]
        : [...layers.childNodes]),
      h(
        "p",
        { class: "muted" },
        single(spec)
          ? "Choose a layer to see which of its neurons differ."
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

  async function layer(name, neuron) {
    const mine = ++turn;
    chosen.layer = name;
    chosen.neuron = neuron;
    keep(chosen);
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
    neuronsOf(name, found, neuron);
  }

  function neuronsOf(name, { metric, unit, distances: values, curves }, neuron) {
    const size = values.length;
    const ranked = Array.from(values, (value, i) => ({ i, value })).sort((p, q) => (q.value || 0) - (p.value || 0));
    const most = ranked[0].value || 1;
    const mean = values.reduce((sum, value) => sum + value, 0) / size;
    const chart = h("div", { class: "chart" });
    const columns = [
      {
        name: "Neuron",
        key: ({ i }) => String(i),
        cell: ({ i }) =>
          h("button", { type: "button", class: "link", "data-neuron": i, onclick: () => pick(i) }, String(i)),
      },
      {
        name: `${short(metric)} (${unit})`,
        number: true,
        key: ({ value }) => value || 0,
        cell: ({ value }) => measure(value),
      },
      { name: "", sortable: false, class: "bars", cell: ({ value }) => bar(value / most) },
    ];
    const table = sortable(`Neurons of ${name} by ${short(metric)}`, columns, ranked, {
      sort: `-${columns[1].name}`,
      step: 12,
    });
    const field = unique("neuron");
    const number = h("input", { id: field, type: "number", min: 0, max: size - 1, inputmode: "numeric" });
    number.addEventListener("change", () => {
      const i = Number(number.value);
      if (Number.isInteger(i) && i >= 0 && i < size) pick(i);
    });
    neurons.replaceChildren(
      h("h2", {}, `Neurons of ${name}`),
      h(
        "p",
        { class: "muted" },
        `Mean of ${count(size)} neuron${size === 1 ? "" : "s"}: ${short(metric)} `,
        h("b", { class: "mean" }, measure(mean)),
        ` ${unit}. Computed here from the published ${metric === "emd" ? "histograms" : "Gaussians"}.`,
      ),
      h(
        "div",
        { class: "beside" },
        chart,
        h(
          "div",
          { class: "ranked" },
          h(
            "div",
            { class: "tablehead" },
            h("h3", {}, "Those that differ most"),
            h("div", { class: "field" }, h("label", { for: field }, "Go to neuron"), number),
          ),
          table.element,
        ),
      ),
    );
    say(`${count(size)} neurons of ${name}, those that differ most first.`);
    const wanted = Number(neuron);
    if (neuron !== undefined && neuron !== "" && Number.isInteger(wanted) && wanted >= 0 && wanted < size) pick(wanted);
    else pick(ranked[0].i, false);

    function pick(i, keeping = true) {
      if (keeping) {
        chosen.neuron = String(i);
        keep(chosen);
      }
      number.value = i;
      for (const button of neurons.querySelectorAll("[data-neuron]"))
        button.setAttribute("aria-pressed", String(Number(button.dataset.neuron) === i));
      chart.replaceChildren(
        h(
          "h3",
          {},
          `Neuron ${i}`,
          h("span", { class: "muted" }, " "),
          h("span", { class: "measured" }, `${short(metric)} ${measure(values[i])} ${unit}`),
        ),
        Number.isFinite(values[i])
          ? overlay(curves(i), [a, b])
          : h("p", { class: "muted" }, "One of them counted no activation of this neuron.", key([a, b])),
      );
      if (keeping) say(`Neuron ${i}: ${short(metric)} ${measure(values[i])} ${unit}.`);
    }
  }
}
