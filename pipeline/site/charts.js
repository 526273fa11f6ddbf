// Charts of two datasets, drawn as SVG: two histograms or two normal curves over the same axis.
//
//     overlay(neurons.curves(3), ["birds", "faces"])

import { h, measure, svg } from "./dom.js";

/** Round values that divide a span into about `most` parts. */
export function ticks(low, high, most = 6) {
  const rough = (high - low) / most;
  if (!(rough > 0) || !Number.isFinite(rough)) return [low];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9; i++) found.push(i * step);
  return found;
}

const plain = (value) => String(Number(value.toPrecision(6)));

export function overlay({ kind, edges, columns, each, hidden, normals }, names) {
  const narrow = matchMedia("(max-width: 640px)").matches;
  const [width, height] = narrow ? [360, 250] : [760, 300];
  const [left, right, top, bottom] = [46, 8, 10, 40];
  const binned = kind === "histogram";
  const [low, high] = [edges[0], edges[edges.length - 1]];
  const most = Math.max(...columns.flat()) * 1.06 || 1;
  const x = (value) => left + ((value - low) / (high - low || 1)) * (width - left - right);
  const y = (value) => height - bottom - (value / most) * (height - top - bottom);
  const at = (i, value) => `${x(edges[i]).toFixed(1)},${y(value).toFixed(1)}`;
  const line = (column) =>
    binned
      ? column.map((value, i) => `${i ? "L" : "M"}${at(i, value)}L${at(i + 1, value)}`).join("")
      : column.map((value, i) => `${i ? "L" : "M"}${at(i, value)}`).join("");
  const area = (column) => `${line(column)}L${at(edges.length - 1, 0)}L${at(0, 0)}Z`;
  const share = (value) => (binned ? `${plain(100 * value)} %` : plain(value));
  const drawing = svg(
    "svg",
    {
      viewBox: `0 0 ${width} ${height}`,
      role: "img",
      "aria-label": `${binned ? "Histograms" : "Normal curves"} of ${names.join(" and ")}; ${binned ? "the table" : "the line"} below has the numbers.`,
    },
    ticks(0, most, 5)
      .map((value) => [
        svg("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
        svg("text", { x: left - 7, y: y(value) + 3.5, "text-anchor": "end" }, share(value)),
      ])
      .flat(),
    ticks(low, high, narrow ? 5 : 8)
      .map((value) => [
        svg("line", { class: "tick", x1: x(value), x2: x(value), y1: height - bottom, y2: height - bottom + 4 }),
        svg("text", { x: x(value), y: height - bottom + 17, "text-anchor": "middle" }, plain(value)),
      ])
      .flat(),
    svg("text", { class: "axis", x: (left + width - right) / 2, y: height - 5, "text-anchor": "middle" }, "activation"),
    columns.map((column, side) => svg("path", { class: `area ${"ab"[side]}`, d: area(column) })),
    columns.map((column, side) => svg("path", { class: `line ${"ab"[side]}`, d: line(column) })),
  );
  const note = binned
    ? `Share of activations in columns of ${each === 1 ? "one bin" : `${each} bins`}${hidden > 1e-6 ? `; up to ${measure(100 * hidden)} % lie beyond the edges` : ""}.`
    : normals
        .map(
          ([mean, deviation], side) =>
            `${names[side]}: mean ${measure(mean)}, standard deviation ${measure(deviation)}`,
        )
        .join("; ");
  return h(
    "figure",
    { class: "overlay" },
    key(names),
    drawing,
    h("figcaption", { class: "muted" }, note),
    binned && numbers(edges, columns, names),
  );
}

export const key = (names) =>
  h(
    "p",
    { class: "key" },
    names.map((name, side) => h("span", { class: "ab"[side] }, h("i", { "aria-hidden": "true" }), name)),
  );

function numbers(edges, columns, names) {
  const body = h("tbody");
  const table = h(
    "table",
    {},
    h("caption", { class: "unseen" }, "Shares of activations by column"),
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        ["From", "to", ...names].map((text) => h("th", { scope: "col", class: "number" }, text)),
      ),
    ),
    body,
  );
  const details = h(
    "details",
    { class: "more" },
    h("summary", {}, "These numbers as a table"),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Numbers of the chart" }, table),
  );
  details.addEventListener("toggle", () => {
    if (body.firstChild) return;
    columns[0].forEach((_, i) =>
      body.append(
        h(
          "tr",
          {},
          [edges[i], edges[i + 1]].map((edge) => h("td", { class: "number" }, measure(edge))),
          columns.map((column) => h("td", { class: "number" }, `${measure(100 * column[i])} %`)),
        ),
      ),
    );
  });
  return details;
}

/** A bar in a table's cell; its number stands beside it. */
export function bar(share, side = "") {
  const element = h("span", { class: `bar ${side}`.trim(), "aria-hidden": "true" });
  element.style.width = `${Math.min(Math.max(100 * share, 0), 100)}%`;
  return element;
}
