// The neurons of a layer on a pair's page: those that differ most, and the curves of one.
//
//     ranked(section, [a, b], "block_0", await read(…), chosen, context);

import { bar, key, overlay } from "./charts.js";
import { short } from "./data.js";
import { count, h, measure, unique } from "./dom.js";
import { sortable } from "./table.js";

/** What a link can name a column of the neurons by. */
export const COLUMNS = [{ name: "Neuron" }, { id: "distance", name: "distance" }];

export function ranked(section, names, layer, { metric, unit, distances: values, curves }, chosen, { keep, say }) {
  const size = values.length;
  const order = Array.from(values, (value, i) => ({ i, value })).sort((p, q) => (q.value || 0) - (p.value || 0));
  const most = order[0].value || 1;
  const mean = values.reduce((sum, value) => sum + value, 0) / size;
  const chart = h("div", { class: "chart" });
  const columns = [
    {
      name: "Neuron",
      key: ({ i }) => String(i),
      cell: ({ i }) =>
        h(
          "button",
          { type: "button", class: "link", "data-neuron": i, "data-name": `neuron ${i}`, onclick: () => pick(i) },
          String(i),
        ),
    },
    {
      id: "distance",
      name: `${short(metric)} (${unit})`,
      number: true,
      key: ({ value }) => value || 0,
      cell: ({ value }) => measure(value),
    },
    { name: "", sortable: false, class: "bars", cell: ({ value }) => bar(value / most) },
  ];
  const table = sortable(`Neurons of ${layer} by ${short(metric)}`, columns, order, {
    sort: chosen.sort || "-distance",
    shown: chosen.shown,
    step: 12,
    changed: (its, at) => keep(Object.assign(chosen, its), at),
  });
  const field = unique("neuron");
  const wrong = h("p", { class: "wrong", id: `${field}-wrong`, role: "status" });
  const number = h("input", {
    id: field,
    type: "number",
    min: 0,
    max: size - 1,
    inputmode: "numeric",
    "data-name": "neuron",
    "aria-describedby": wrong.id,
  });
  number.addEventListener("change", () => {
    const i = Number(number.value);
    const is = number.value !== "" && Number.isInteger(i) && i >= 0 && i < size;
    number.setAttribute("aria-invalid", String(!is));
    wrong.textContent = is ? "" : `${layer} has neurons 0 to ${size - 1}.`;
    if (is) pick(i);
  });
  section.replaceChildren(
    h("h2", {}, `Neurons of ${layer}`),
    h(
      "p",
      { class: "muted" },
      `Mean of ${count(size)} neuron${size === 1 ? "" : "s"}: ${short(metric)} `,
      h("b", { class: "mean" }, measure(mean)),
      ` ${unit}. Computed in this browser from the published ${metric === "emd" ? "histograms" : "Gaussians"}.`,
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
          h("h3", {}, "Neurons that differ most"),
          h("div", { class: "field" }, h("label", { for: field }, "Go to neuron"), number, wrong),
        ),
        table.element,
      ),
    ),
  );
  say(`${count(size)} neurons of ${layer}, sorted by how much they differ.`);
  pick(chosen.neuron ? Number(chosen.neuron) : order[0].i, false);

  function pick(i, keeping = true) {
    if (keeping) {
      chosen.neuron = String(i);
      keep(chosen, "neuron");
    }
    number.value = i;
    number.removeAttribute("aria-invalid");
    wrong.textContent = "";
    for (const button of section.querySelectorAll("[data-neuron]"))
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
        ? overlay(curves(i), names)
        : h("p", { class: "muted" }, "One of the two datasets counted no activation of this neuron.", key(names)),
    );
    if (keeping) say(`Neuron ${i}: ${short(metric)} ${measure(values[i])} ${unit}.`);
  }
}
