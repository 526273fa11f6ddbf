// What the index says of a dataset, of the network it went through and of how it was measured; nothing is left out.
//
//     article.append(facts(row, catalogue.specs[row.spec]))

import { count, h, measure, source } from "./dom.js";

const SHOWN = new Set([
  "dataset",
  "spec",
  "description",
  "licence",
  "url",
  "images",
  "skipped",
  "skipped_by_reason",
  "damaged_shards",
  "shards",
  "clamped_share",
  "not_finite",
  "fingerprint",
  "digest",
  "created",
  "bytes",
  "group",
  "manifest",
  "versions",
  "version",
  "provenance",
  "thumbnails",
]);
const SPEC_SHOWN = new Set([
  "extractor",
  "architecture",
  "weights",
  "preprocessing",
  "precision",
  "distributions",
  "positions",
  "ranges",
  "network",
  "layers",
  "extractor_licence",
]);

export function facts(row, spec) {
  const mono = (text) => (text ? h("code", {}, text) : null);
  const reasons = Object.entries(row.skipped_by_reason ?? {}).map(([reason, n]) => `${reason}: ${count(n)}`);
  const share = row.clamped_share ? `${measure(100 * row.clamped_share)} % of activations` : "no activation";
  const layers = Object.entries(spec.layers);
  const groups = {
    "The images": [
      ["Images", count(row.images)],
      ["Skipped", [count(row.skipped), reasons.length ? ` (${reasons.join(", ")})` : ""]],
      [
        "Shards",
        `${count(row.shards)}${row.damaged_shards ? `, ${count(row.damaged_shards)} damaged` : ", none damaged"}`,
      ],
      [
        "Source",
        [row.url ?? []]
          .flat()
          .filter(Boolean)
          .map((url) => h("div", {}, source(String(url)))),
      ],
      ["Licence", row.licence || h("span", { class: "muted" }, "not stated")],
      ["Fingerprint", mono(row.fingerprint)],
    ],
    "The network": [
      ["Extractor", spec.extractor],
      ["Architecture", spec.architecture],
      ["Weights", mono(spec.weights)],
      ["Preprocessing", spec.preprocessing],
      ["Precision", spec.precision],
      ["Licence", spec.extractor_licence || h("span", { class: "muted" }, "not stated")],
      ["Network", mono(spec.network)],
      ["Spec", mono(row.spec)],
    ],
    "The measurement": [
      [
        "Distributions",
        spec.distributions.map((kind) =>
          h(
            "div",
            {},
            kind,
            h("span", { class: "muted" }, spec.positions?.[kind] ? ` · positions: ${spec.positions[kind]}` : ""),
          ),
        ),
      ],
      [
        "Layers",
        [
          `${count(layers.length)}, ${count(layers.reduce((sum, [, n]) => sum + n, 0))} neurons`,
          h(
            "details",
            {},
            h("summary", {}, "List"),
            h(
              "ul",
              { class: "layers" },
              layers.map(([layer, n]) => h("li", {}, `${layer} `, h("span", { class: "muted" }, count(n)))),
            ),
          ),
        ],
      ],
      ["Histogram axes", mono(spec.ranges)],
      ["Clamped", `${share} lay beyond the axes`],
      ["NaN or infinite", count(row.not_finite ?? 0)],
      ["Digest", mono(row.digest)],
      ["Measured", row.created],
    ],
    More: [
      ...Object.entries(row).filter(([key]) => !SHOWN.has(key)),
      ...Object.entries(spec).filter(([key]) => !SPEC_SHOWN.has(key)),
    ].map(([key, value]) => [key, typeof value === "object" ? JSON.stringify(value) : String(value)]),
  };
  const parts = Object.entries(groups).map(([heading, entries]) => {
    const said = entries.filter(
      ([, value]) => value !== null && value !== undefined && value !== "" && !(Array.isArray(value) && !value.length),
    );
    if (!said.length) return null;
    return h(
      "section",
      {},
      h("h2", {}, heading),
      h(
        "dl",
        {},
        said.map(([term, value]) => [h("dt", {}, term), h("dd", {}, value)]),
      ),
    );
  });
  return h("div", { class: "facts" }, parts.filter(Boolean));
}
