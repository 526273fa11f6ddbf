// The catalogue's files, fetched and decoded. catalogue.json alone ever changes; the rest is named after its contents.
//
//     const catalogue = await load();
//     const { order, xy, near } = await catalogue.layout(spec, "emd", "");     // "" is over all layers

export const ROOT = new URL("../", location.href.split("#")[0]);

const FORMAT = 2;
const SITE_FORMAT = 1;
const STEPS = 65534;
export const METRICS = {
  emd: ["EMD", "Earth mover's distance between the neurons' histograms"],
  nfd: ["NFD", "Fréchet distance between the neurons' Gaussians"],
  fd: ["FD", "Fréchet distance between the layers' Gaussians"],
};
export const short = (metric) => METRICS[metric]?.[0] ?? metric;

/** What went wrong in words for who reads the page, and what they can do. */
export class SiteError extends Error {
  constructor(message, hint = "") {
    super(message);
    this.hint = hint;
  }
}

/** Where an object of the catalogue lies; what an index names elsewhere is not followed. */
export function address(path) {
  const found = new URL(path, ROOT);
  if (!found.href.startsWith(ROOT.href)) throw new SiteError(`${path} is not in this catalogue.`);
  return found.href;
}

/** An object's bytes; null where there is none and `optional`. */
export async function get(path, { optional = false, cache = "default", sha256 = "" } = {}) {
  const where = address(path);
  let answer;
  try {
    answer = await fetch(where, { cache });
  } catch {
    throw new SiteError(
      `${path} cannot be fetched.`,
      "Check the network connection, and that the catalogue's own folder is what the server serves. " +
        "For a catalogue on this machine, run python -m http.server in its folder and open http://localhost:8000/site/",
    );
  }
  // A bucket that may not be listed answers 403 for what is not there.
  if (optional && (answer.status === 404 || answer.status === 403)) return null;
  if (!answer.ok) throw new SiteError(`${path} cannot be fetched: the server answers ${answer.status}.`);
  const data = await answer.arrayBuffer();
  if (sha256 && !(await matches(data, sha256))) {
    throw new SiteError(
      `${path} is not what was published: its SHA-256 hash differs.`,
      "Reload the page. If that does not help, the file is damaged on the server.",
    );
  }
  return data;
}

/** Whether bytes have that SHA-256, or one that begins so; browsers tell only on https and on this machine. */
async function matches(data, sha256) {
  if (!globalThis.crypto?.subtle) return true;
  const found = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
  return Array.from(found, (byte) => byte.toString(16).padStart(2, "0"))
    .join("")
    .startsWith(sha256);
}

export async function getJson(path, options = {}) {
  const data = await get(path, options);
  try {
    return JSON.parse(new TextDecoder().decode(data));
  } catch {
    throw new SiteError(`${path} is damaged: it is not JSON.`);
  }
}

/** A gzipped JSON object. Some servers unpack .gz on the way; then it is JSON already, and has another SHA-256. */
async function getPacked({ path, sha256 }) {
  const data = await get(path);
  const head = new Uint8Array(data, 0, Math.min(2, data.byteLength));
  try {
    if (head[0] !== 0x1f || head[1] !== 0x8b) return JSON.parse(new TextDecoder().decode(data));
    if (!(await matches(data, sha256))) throw new Error("its SHA-256 hash differs");
    const unpacked = new Blob([data]).stream().pipeThrough(new DecompressionStream("gzip"));
    return await new Response(unpacked).json();
  } catch (error) {
    throw new SiteError(
      `${path} is damaged (${error.message}).`,
      "Reload the page. If that does not help, the catalogue has to be published again.",
    );
  }
}

export async function load() {
  const head = await getJson("catalogue.json", { cache: "no-store" });
  if (head.format > FORMAT) {
    const words = `This catalogue has format ${head.format}, and this page reads format ${FORMAT}.`;
    throw new SiteError(
      words,
      "Reload the page without the browser's cache. If that does not help, an older program published this site.",
    );
  }
  const [index, site] = await Promise.all([getPacked(head.index), head.site ? getPacked(head.site) : null]);
  // A newer layout of the site's data is no reason not to show the index.
  return new Catalogue(head, index, site && site.format <= SITE_FORMAT ? site : { matrices: {} });
}

class Catalogue {
  constructor(head, index, site) {
    this.head = head;
    this.specs = index.specs;
    this.vdnas = index.vdnas;
    this.program = index.program;
    this._site = site.matrices;
    this._cache = new Map();
    this.matrices = new Map();
    for (const matrix of [...index.matrices].sort(
      (a, b) => b.members.length - a.members.length || (a.created < b.created ? 1 : -1),
    )) {
      const metrics = matrix.metrics.filter((metric) => this._site[matrix.spec]?.metrics?.[metric]);
      const rows = matrix.members.map((row) => this.vdnas[row]);
      const place = new Map(rows.map((row, i) => [row.dataset, i]));
      const layers = Object.keys(this.specs[matrix.spec].layers);
      this.matrices.set(matrix.spec, { ...matrix, drawn: metrics, rows, place, layers, size: rows.length });
    }
    const rank = [...this.matrices.keys()];
    const of = (row) => (rank.indexOf(row.spec) + rank.length + 1) % (rank.length + 1);
    /** The VDNAs of each dataset; the first is the one in the largest matrix. */
    this.datasets = new Map();
    for (const row of [...this.vdnas].sort((a, b) => of(a) - of(b))) {
      if (!this.datasets.has(row.dataset)) this.datasets.set(row.dataset, []);
      this.datasets.get(row.dataset).push(row);
    }
    const extractors = Object.values(this.specs).map((spec) => spec.extractor);
    this.labels = new Map(
      Object.entries(this.specs).map(([id, spec]) => {
        const several = extractors.filter((name) => name === spec.extractor).length > 1;
        return [id, several ? `${spec.extractor} · ${id.slice(0, 8)}` : spec.extractor];
      }),
    );
  }

  /** A dataset's VDNA of that spec; else the one in the largest matrix. */
  vdna(dataset, spec = "") {
    const all = this.datasets.get(dataset) ?? [];
    return all.find((row) => row.spec === spec) ?? all[0] ?? null;
  }

  /** Which layers of a matrix have files of their own. */
  layersOf(spec, metric) {
    return Object.keys(this._site[spec]?.metrics[metric]?.layers ?? {});
  }

  _entry(spec, metric, layer) {
    const of = this._site[spec]?.metrics[metric];
    return (layer ? of?.layers[layer] : of?.overall) ?? null;
  }

  _once(path, make) {
    if (!this._cache.has(path)) {
      const made = make().catch((error) => {
        this._cache.delete(path);
        throw error;
      });
      this._cache.set(path, made);
    }
    return this._cache.get(path);
  }

  /** Order, places on the map and nearest others; `layer` "" is over all layers. Null if not published. */
  async layout(spec, metric, layer = "") {
    const entry = this._entry(spec, metric, layer);
    if (!entry) return null;
    const n = this.matrices.get(spec).size;
    const k = Math.min(10, n - 1);
    return this._once(entry.layout, async () => {
      const data = await get(entry.layout, { sha256: begins(entry.layout) });
      if (data.byteLength !== n * (12 + 8 * k)) throw new SiteError(`${entry.layout} is damaged: it has the wrong size.`);
      return {
        order: new Uint32Array(data, 0, n),
        xy: new Float32Array(data, 4 * n, 2 * n),
        near: new Uint32Array(data, 12 * n, n * k),
        nearDistance: new Float32Array(data, 12 * n + 4 * n * k, n * k),
        k,
      };
    });
  }

  /** Every pair (upper triangle) over some layers, none named being all; null where pairs are not published. */
  async pairs(spec, metric, layers = []) {
    const names = layers.length ? layers : [""];
    const parts = await Promise.all(names.map((layer) => this._values(spec, metric, layer)));
    if (parts.some((part) => part === null)) return null;
    if (parts.length === 1) return parts[0];
    // As over all layers: EMD and NFD are means over neurons, FD over layers.
    const weights = names.map((layer) => (metric === "fd" ? 1 : this.specs[spec].layers[layer]));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    const mean = new Float32Array(parts[0].length);
    parts.forEach((part, which) => {
      for (let i = 0; i < mean.length; i++) mean[i] += (part[i] * weights[which]) / total;
    });
    return mean;
  }

  async _values(spec, metric, layer) {
    const entry = this._entry(spec, metric, layer);
    if (!entry?.values) return null;
    const n = this.matrices.get(spec).size;
    return this._once(entry.values, async () => {
      const data = await get(entry.values, { sha256: begins(entry.values) });
      if (data.byteLength !== n * (n - 1)) throw new SiteError(`${entry.values} is damaged: it has the wrong size.`);
      const scale = new Float32Array(STEPS + 2);
      const ratio = Math.log(entry.high / entry.low) || 0;
      for (let code = 1; code < scale.length; code++) scale[code] = entry.low * Math.exp((ratio * (code - 1)) / STEPS);
      return Float32Array.from(new Uint16Array(data), (code) => scale[code]);
    });
  }
}

/** How the SHA-256 of a file begins that is named by it. */
function begins(path) {
  return /([0-9a-f]{16})\.bin$/.exec(path)?.[1] ?? "";
}

/** Where the pair i < j of n stands in an upper triangle. */
export const pairIndex = (i, j, n) => (i < j ? (i * (2 * n - i - 1)) / 2 + j - i - 1 : pairIndex(j, i, n));
