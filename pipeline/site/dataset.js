// A dataset: everything the catalogue says of it, the datasets nearest to it, and how to open it.

import { askedLayer, distance, drawable, oneLayer, picked, settle } from "./choices.js";
import { METRICS, ROOT, address, short } from "./data.js";
import { bytes, count, day, h, measure, refill, route, select } from "./dom.js";
import { facts } from "./facts.js";

export async function show(article, { catalogue, asked, title, keep, current, go, note }) {
  const name = asked.dataset(1, [...catalogue.datasets.keys()], "This catalogue has no such dataset.");
  asked.ends(2);
  const others = catalogue.datasets.get(name);
  const known = others.map((other) => [other.spec, catalogue.labels.get(other.spec)]);
  const chosen = { spec: asked.one("spec", known, `${name} was not measured with such a network.`) };
  const row = catalogue.vdna(name, chosen.spec);
  const compared = (its) => its.map((one) => catalogue.matrices.get(one.spec)).filter((m) => m?.drawn.length);
  const own = compared(asked.wrong.has("spec") ? others : [row]);
  // Of one that was not compared the page says so; then any distance that there is will do.
  Object.assign(chosen, askedLayer(asked, catalogue, own.length ? own : drawable(catalogue)));
  asked.checked();
  title(name);
  const spec = catalogue.specs[row.spec];
  const networks =
    others.length > 1
      ? select(
          "Network",
          known,
          row.spec,
          (value) => {
            chosen.spec = value;
            const its = compared([{ spec: value }]);
            const lost = its.length ? settle(catalogue, its, chosen) : null;
            go(["dataset", name], chosen, "network", lost);
          },
        )
      : null;
  if (networks) networks.dataset.name = "network";
  article.append(
    h(
      "header",
      { class: "intro" },
      h("h1", {}, name),
      row.description && h("p", { class: "lead" }, row.description),
      h(
        "p",
        { class: "muted" },
        `${count(row.images)} images, measured with ${catalogue.labels.get(row.spec)} on ${day(row.created)}`,
      ),
    ),
  );
  if (networks) article.append(h("div", { class: "controls" }, networks));
  const pictures = thumbnails(row);
  if (pictures) article.append(pictures);
  const [controls, list] = [h("div", { class: "controls" }), h("div", { class: "list" })];
  const near = h("section", { class: "near" }, h("h2", {}, "Nearest datasets"), controls, list);
  article.append(
    h("div", { class: "beside even" }, near, h("section", {}, h("h2", {}, "Open this dataset"), ...opening(row, spec))),
    facts(row, spec),
    versions(row),
  );
  if (row.provenance && Object.keys(row.provenance).length) {
    article.append(
      h(
        "details",
        { class: "more" },
        h("summary", {}, "Provenance"),
        h("pre", { tabindex: "0" }, JSON.stringify(row.provenance, null, 2)),
      ),
    );
  }
  let turn = 0;
  await nearest(note);

  async function nearest(lost = null) {
    const matrix = catalogue.matrices.get(row.spec);
    const i = matrix?.place.get(name);
    if (i === undefined || !matrix.drawn.length || matrix.size < 2) {
      list.replaceChildren(h("p", { class: "muted" }, "This dataset has not been compared with others yet."));
      return;
    }
    const { metric, layers } = picked(catalogue, [matrix], { ...chosen, spec: row.spec });
    const { layer } = chosen;
    const mine = ++turn;
    const { near: places, nearDistance, k } = await catalogue.layout(row.spec, metric, layer);
    if (!current() || mine !== turn) return;
    const again = (key) => (value) => {
      chosen[key] = value;
      const gone = settle(catalogue, [matrix], chosen);
      keep(chosen, key);
      nearest(gone);
    };
    refill(controls, {
      metric: distance(matrix, metric, again("metric")),
      layer: oneLayer(layers, layer, again("layer")),
      lost,
    });
    const most = nearDistance[i * k + k - 1] || 1;
    const lines = Array.from({ length: k }, (_, rank) => {
      const other = matrix.rows[places[i * k + rank]].dataset;
      const far = nearDistance[i * k + rank];
      const bar = h("span", { class: "bar", "aria-hidden": "true" });
      bar.style.width = `${(100 * far) / most}%`;
      return h(
        "tr",
        {},
        h("th", { scope: "row" }, h("a", { href: route(["dataset", other], { spec: row.spec, metric }) }, other)),
        h(
          "td",
          { class: "number" },
          h(
            "a",
            {
              href: route(["pair", name, other], { spec: row.spec, metric, layer }),
              "aria-label": `${measure(far)}, compare with ${other}`,
            },
            measure(far),
          ),
        ),
        h("td", { class: "bars" }, bar),
      );
    });
    list.replaceChildren(
      h(
        "table",
        {},
        h("caption", { class: "unseen" }, `Nearest datasets by ${METRICS[metric][1]}`),
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("th", { scope: "col" }, "Dataset"),
            h("th", { scope: "col", class: "number" }, `${short(metric)} (${matrix.units[metric]})`),
            h("td", { class: "bars" }),
          ),
        ),
        h("tbody", {}, lines),
      ),
      h(
        "p",
        {},
        h(
          "a",
          { href: route(["matrix"], { spec: row.spec, metric, order: "near", near: name }) },
          "All datasets by distance, in the matrix",
        ),
      ),
    );
  }
}

function thumbnails(row) {
  // Pictures of the catalogue itself, never of elsewhere.
  const safe = (row.thumbnails ?? []).filter((path) => /^thumbnails\/[\w./-]+$/.test(path) && !path.includes(".."));
  if (!safe.length) return null;
  const pictures = safe.slice(0, 12).map((path, i) =>
    h("img", {
      src: address(path),
      alt: `Sample ${i + 1} of ${row.dataset}`,
      loading: "lazy",
      width: 112,
      height: 112,
    }),
  );
  return h("div", { class: "thumbnails" }, pictures);
}

function opening(row, spec) {
  const root = ROOT.href.replace(/\/$/, "");
  const python = `from pipeline import open_catalogue\nv = open_catalogue("${root}").vdna("${row.dataset}", "${spec.extractor}", "${row.spec}")`;
  const shell = `vdna-catalogue --catalogue ${root} show ${row.dataset} ${spec.extractor}`;
  return [
    code("In Python", python),
    code("On the command line", shell),
    h(
      "p",
      { class: "muted" },
      "The arrays are a Zarr group, which any Zarr library can read: ",
      h("a", { href: address(`${row.group}/zarr.json`) }, row.group),
      row.bytes ? `, ${bytes(row.bytes)}.` : ".",
    ),
  ];
}

function code(label, text) {
  const copy = h("button", { type: "button", class: "quiet", "aria-label": `Copy: ${label}` }, "Copy");
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      copy.textContent = "Copied";
    } catch {
      copy.textContent = "Select and copy the text by hand";
    }
  });
  return h("div", { class: "code" }, h("p", { class: "label" }, label, copy), h("pre", { tabindex: "0" }, text));
}

function versions(row) {
  const lines = [...(row.versions ?? [])]
    .reverse()
    .map((version) =>
      h(
        "tr",
        {},
        h("th", { scope: "row" }, String(version.version)),
        h("td", {}, day(version.created)),
        h("td", { class: "number" }, count(version.images)),
        h("td", { class: "digest" }, h("code", {}, version.digest)),
        h(
          "td",
          {},
          version.manifest
            ? h(
                "a",
                { href: address(version.manifest.path), "aria-label": `Manifest of version ${version.version}` },
                "manifest",
              )
            : "",
        ),
      ),
    );
  if (!lines.length) return "";
  const head = ["Version", "Measured", "Images", "Digest", ""].map((text) =>
    text ? h("th", { scope: "col", class: text === "Images" ? "number" : null }, text) : h("td"),
  );
  return h(
    "section",
    { class: "versions" },
    h("h2", {}, "Versions"),
    h("p", { class: "muted" }, "The digest identifies the numbers of a version exactly. Cite the digest."),
    h("table", {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, lines)),
  );
}
