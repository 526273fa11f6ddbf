// What can be chosen of the published matrices, what a link asks for of it, and the fields to choose it with.
//
//     const { spec, matrices } = askedNetwork(asked, catalogue, drawn);
//     const { metric, layer } = askedLayer(asked, catalogue, matrices);
//     const { matrix, metric, layers } = picked(catalogue, drawn, chosen);
//     refill(controls, { spec: network(catalogue, drawn, matrix, changed), metric: distance(matrix, metric, changed) });

import { short } from "./data.js";
import { h, select } from "./dom.js";

/** The matrices that can be drawn. */
export const drawable = (catalogue) => [...catalogue.matrices.values()].filter((matrix) => matrix.drawn.length);

const options = (names, text = (name) => name) => [...new Set(names)].map((name) => [name, text(name)]);

/** The network that a link asks for, "" if none, and its matrix in a list, or the first; all if it is not there. */
export function askedNetwork(asked, catalogue, drawn) {
  const known = drawn.map((matrix) => [matrix.spec, catalogue.labels.get(matrix.spec)]);
  const spec = asked.one("spec", known, "This catalogue has no such network with published distances.");
  if (asked.wrong.has("spec")) return { spec, matrices: drawn };
  return { spec, matrices: spec ? [catalogue.matrices.get(spec)] : drawn.slice(0, 1) };
}

/** The distance that a link asks for, "" if none; and the layers there are of it in these matrices. */
export function askedDistance(asked, catalogue, matrices) {
  const whose = matrices.length === 1 ? catalogue.labels.get(matrices[0].spec) : "any network";
  const missing = `No such distance of ${whose} is published here.`;
  const metrics = matrices.flatMap((matrix) => matrix.drawn);
  const metric = asked.one("metric", options(metrics, short), missing);
  const those = (matrix) => (metric ? [metric] : asked.wrong.has("metric") ? matrix.drawn : matrix.drawn.slice(0, 1));
  const layers = matrices.flatMap((matrix) => those(matrix).flatMap((of) => catalogue.layersOf(matrix.spec, of)));
  return { metric, known: [...new Set(layers)], missing: `No such layer of ${whose} is published here.` };
}

/** The same, and the layer, "" if none. */
export function askedLayer(asked, catalogue, matrices) {
  const { metric, known, missing } = askedDistance(asked, catalogue, matrices);
  return { metric, layer: asked.one("layer", options(known), missing) };
}

/** The matrix and metric that were chosen, or the first; and the layers there are of them. */
export function picked(catalogue, drawn, chosen) {
  const matrix = catalogue.matrices.get(chosen.spec || drawn[0].spec);
  const metric = chosen.metric || matrix.drawn[0];
  return { matrix, metric, layers: catalogue.layersOf(matrix.spec, metric) };
}

/** Takes out of a choice what another network or distance, chosen since, has not got; a line that says so, or null. */
export function settle(catalogue, drawn, chosen) {
  const gone = [];
  const keep = (key, known, text = (name) => name) => {
    const names = (chosen[key] || "").split(",").filter(Boolean);
    gone.push(...names.filter((name) => !known.includes(name)).map(text));
    chosen[key] = names.filter((name) => known.includes(name)).join(",");
  };
  const { matrix } = picked(catalogue, drawn, chosen);
  keep("metric", matrix.drawn, short);
  const { layers } = picked(catalogue, drawn, chosen);
  for (const key of ["layer", "layers"]) keep(key, layers);
  if (chosen.near) keep("near", [...matrix.place.keys()]);
  if (!gone.length) return null;
  const words = `Not published for ${catalogue.labels.get(matrix.spec)}, and therefore no longer chosen: ${gone.join(", ")}.`;
  return h("p", { class: "note", role: "status" }, words);
}

/** Null where there is only one. */
export function network(catalogue, drawn, matrix, changed) {
  if (drawn.length < 2) return null;
  const known = drawn.map((m) => [m.spec, catalogue.labels.get(m.spec)]);
  return select("Network", known, matrix.spec, changed);
}

export function distance(matrix, metric, changed) {
  const known = matrix.drawn.map((m) => [m, short(m)]);
  return select("Distance", known, metric, changed);
}

export function oneLayer(layers, layer, changed) {
  return select("Layer", [["", "all layers"], ...layers.map((l) => [l, l])], layer, changed);
}
