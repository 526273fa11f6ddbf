// Two datasets neuron by neuron, computed here from the published arrays of a layer.
//
//     const neurons = await read(catalogue, [rowA, rowB], spec, "block_0", (text) => …);
//     neurons.distances[3]       // EMD of neuron 3 in bins
//     neurons.curves(3)          // its two histograms, for a chart

import { SiteError, getJson } from "./data.js";
import { bytes } from "./dom.js";
import { open } from "./zarr.js";

const COLUMNS = 72;
const TAIL = 0.0005;

const histogram = (spec) => spec.distributions.find((name) => name.startsWith("histogram-"));

/** Whether there is anything of single neurons to compare. */
export const single = (spec) => Boolean(histogram(spec)) || spec.distributions.includes("gaussian");

export async function read(catalogue, rows, spec, layer, progress) {
  const range = place(spec.layers, layer);
  const binned = histogram(spec);
  const all = new Map();
  const told = (side) => (name) => (done, of, size) => {
    all.set(`${side} ${name}`, { done, of, size });
    const sum = (key) => [...all.values()].reduce((total, each) => total + each[key], 0);
    progress(`Reading ${layer} of both datasets: ${sum("done")} of ${sum("of")} objects, ${bytes(sum("size"))}`);
  };
  const groups = await Promise.all(rows.map(published));
  const make = binned ? histograms : gaussians;
  return make(groups, range, Number(binned?.split("-")[1]), told);
}

/** Opens the group of a VDNA or a matrix, with its manifest's hashes if there are any: what is read is checked. */
export async function published(row) {
  const manifest = row.manifest ? await getJson(row.manifest.path, { sha256: row.manifest.sha256 }) : null;
  return open(row.group, manifest?.objects ?? null);
}

/** Where a layer lies on the axis of all neurons. */
function place(layers, layer) {
  let start = 0;
  for (const [name, neurons] of Object.entries(layers)) {
    if (name === layer) return [start, start + neurons];
    start += neurons;
  }
  throw new SiteError(`The network has no layer ${layer}.`);
}

async function histograms(groups, range, bins, told) {
  const [counts, low, high] = await Promise.all([
    Promise.all(groups.map((one, side) => one.read("histogram", [range, [0, bins]], told(side)("histogram")))),
    groups[0].read("bin_low", [range]),
    groups[0].read("bin_high", [range]),
  ]);
  const size = range[1] - range[0];
  const shares = counts.map((all) => normalised(all, size, bins));
  const distances = Float64Array.from({ length: size }, (_, i) => emd(shares[0], shares[1], i * bins, bins));
  return {
    metric: "emd",
    unit: "bins",
    distances,
    bins,
    curves: (i) =>
      regrouped(
        shares.map((all) => all.subarray(i * bins, (i + 1) * bins)),
        low[i],
        high[i],
      ),
  };
}

function normalised(counts, size, bins) {
  for (let i = 0; i < size; i++) {
    const row = counts.subarray(i * bins, (i + 1) * bins);
    const total = row.reduce((sum, n) => sum + n, 0);
    for (let bin = 0; bin < bins; bin++) row[bin] /= total; // of no activation at all: NaN, and no distance
  }
  return counts;
}

/** Earth mover's distance in bins: the sum of |cumulated differences|. */
function emd(p, q, start, bins) {
  let [ahead, moved] = [0, 0];
  for (let bin = start; bin < start + bins; bin++) {
    ahead += p[bin] - q[bin];
    moved += Math.abs(ahead);
  }
  return moved;
}

/** Where nearly all of both lies, in about `COLUMNS` columns of whole bins. */
function regrouped(shares, low, high) {
  const bins = shares[0].length;
  const inside = shares.map((row) => {
    let [first, last] = [0, bins - 1];
    for (let sum = row[first]; first < last && sum < TAIL; sum += row[++first]);
    for (let sum = row[last]; last > first && sum < TAIL; sum += row[--last]);
    return [first, last];
  });
  let first = Math.min(...inside.map(([bin]) => bin));
  let last = Math.max(...inside.map(([, bin]) => bin));
  const margin = Math.ceil((last - first + 1) * 0.04);
  [first, last] = [Math.max(first - margin, 0), Math.min(last + margin, bins - 1)];
  const each = Math.max(Math.round((last - first + 1) / COLUMNS), 1);
  const width = (high - low) / bins;
  const edges = [];
  const columns = shares.map(() => []);
  for (let bin = first; bin <= last; bin += each) {
    const end = Math.min(bin + each, bins);
    edges.push(low + bin * width);
    shares.forEach((row, side) => columns[side].push(row.subarray(bin, end).reduce((sum, share) => sum + share, 0)));
    if (bin + each > last) edges.push(low + end * width);
  }
  const hidden = Math.max(...columns.map((column) => 1 - column.reduce((sum, share) => sum + share, 0)));
  return { kind: "histogram", edges, columns, each, hidden };
}

async function gaussians(groups, range, _, told) {
  const names = ["count", "mean", "m2"];
  const read = (one, side) => Promise.all(names.map((name) => one.read(name, [range], told(side)(name))));
  const sides = (await Promise.all(groups.map(read))).map(([counts, mean, m2]) => ({
    mean,
    deviation: m2.map((sum, i) => Math.sqrt(sum / Math.max(counts[i] - 1, 1))),
  }));
  const [a, b] = sides;
  const distances = a.mean.map((mean, i) => (mean - b.mean[i]) ** 2 + (a.deviation[i] - b.deviation[i]) ** 2);
  return {
    metric: "nfd",
    unit: "squared activation",
    distances,
    curves: (i) => bells(sides.map(({ mean, deviation }) => [mean[i], deviation[i]])),
  };
}

function bells(normals) {
  const widest = Math.max(...normals.map(([, deviation]) => deviation)) || 1;
  const low = Math.min(...normals.map(([mean, deviation]) => mean - 3.5 * (deviation || widest / 50)));
  const high = Math.max(...normals.map(([mean, deviation]) => mean + 3.5 * (deviation || widest / 50)));
  const xs = Array.from({ length: 161 }, (_, i) => low + ((high - low) * i) / 160);
  const density = (x, mean, deviation) =>
    Math.exp(-(((x - mean) / deviation) ** 2) / 2) / (deviation * Math.sqrt(2 * Math.PI));
  return {
    kind: "normal",
    edges: xs,
    columns: normals.map(([mean, deviation]) => xs.map((x) => density(x, mean, deviation || widest / 50))),
    normals,
  };
}
