// What can be chosen of the published matrices, and the fields to choose it with.
//
//     const { matrix, metric, layers } = picked(catalogue, drawn, chosen);
//     refill(controls, { spec: network(catalogue, drawn, matrix, changed), metric: distance(matrix, metric, changed) });

import { short } from "./data.js";
import { select } from "./dom.js";

/** The matrices that can be drawn. */
export const drawable = (catalogue) => [...catalogue.matrices.values()].filter((matrix) => matrix.drawn.length);

/** The matrix and metric that were chosen, or the first; and the layers there are of them. */
export function picked(catalogue, drawn, chosen) {
  let matrix = catalogue.matrices.get(chosen.spec);
  if (!matrix?.drawn.length) matrix = drawn[0];
  const metric = matrix.drawn.includes(chosen.metric) ? chosen.metric : matrix.drawn[0];
  return { matrix, metric, layers: catalogue.layersOf(matrix.spec, metric) };
}

/** Null where there is only one. */
export function network(catalogue, drawn, matrix, changed) {
  if (drawn.length < 2) return null;
  const options = drawn.map((m) => [m.spec, catalogue.labels.get(m.spec)]);
  return select("Network", options, matrix.spec, changed);
}

export function distance(matrix, metric, changed) {
  const options = matrix.drawn.map((m) => [m, short(m)]);
  return select("Distance", options, metric, changed);
}

export function oneLayer(layers, layer, changed) {
  return select("Layer", [["", "all layers"], ...layers.map((l) => [l, l])], layer, changed);
}
