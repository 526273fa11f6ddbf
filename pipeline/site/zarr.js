// Reads parts of arrays of a Zarr v3 group over HTTP, whole objects at a time, so that any static server will do.
//
//     const group = await open("vdnas/birds/vit/0123456789abcdef.zarr", hashes);
//     await group.read("histogram", [[16, 32], [0, 100]]);      // Float64Array, row after row
//
// `hashes` are the SHA-256 of the group's objects by name, as its manifest has them: then what is read is checked, and
// what is not among them is not asked for. An object that is not there stands for fill values.

import { unpack } from "./blosc.js";
import { SiteError, get, getJson } from "./data.js";

const KINDS = {
  float64: [8, (view, at) => view.getFloat64(at, true)],
  float32: [4, (view, at) => view.getFloat32(at, true)],
  int64: [8, (view, at) => view.getUint32(at, true) + view.getInt32(at + 4, true) * 2 ** 32],
  uint64: [8, (view, at) => view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32],
  int32: [4, (view, at) => view.getInt32(at, true)],
  uint32: [4, (view, at) => view.getUint32(at, true)],
};

export async function open(path, hashes = null) {
  const metadata = await getJson(`${path}/zarr.json`, { sha256: hashes?.["zarr.json"] ?? "" });
  const arrays = metadata.consolidated_metadata?.metadata;
  if (!arrays) throw new SiteError(`This page cannot read ${path}: it is not a consolidated Zarr v3 group.`);
  return new Group(path, arrays, hashes);
}

class Group {
  constructor(path, arrays, hashes) {
    Object.assign(this, { path, arrays, hashes });
  }

  has(name) {
    return Boolean(this.arrays[name]);
  }

  /** A box of an array, as [start, stop) of each dimension; `progress(done, all, bytes)` is told of each object. */
  async read(name, box, progress = () => {}) {
    const array = this.arrays[name];
    const kind = KINDS[array?.data_type];
    if (!kind) throw new SiteError(`${this.path} has no array ${name} of numbers.`);
    const chunk = array.chunk_grid.configuration.chunk_shape;
    const result = new Float64Array(box.reduce((size, [start, stop]) => size * (stop - start), 1)).fill(
      fillValue(array),
    );
    const grids = box.map(([start, stop], axis) => {
      const first = Math.floor(start / chunk[axis]);
      return Array.from({ length: Math.ceil(stop / chunk[axis]) - first }, (_, i) => first + i);
    });
    const places = grids.reduce((all, grid) => all.flatMap((place) => grid.map((i) => [...place, i])), [[]]);
    let done = 0;
    let bytes = 0;
    await Promise.all(
      places.map(async (place) => {
        const data = await this._object(key(array, name, place));
        if (data) this._copy(decode(data, array, `${this.path}/${name}`), kind, chunk, place, box, result);
        bytes += data?.byteLength ?? 0;
        progress(++done, places.length, bytes);
      }),
    );
    return result;
  }

  async _object(name) {
    if (!this.hashes) return get(`${this.path}/${name}`, { optional: true });
    const sha256 = this.hashes[name];
    return sha256 ? get(`${this.path}/${name}`, { sha256 }) : null;
  }

  _copy(bytes, [item, number], chunk, place, box, result) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    if (bytes.length !== item * chunk.reduce((a, b) => a * b, 1))
      throw new SiteError(`${this.path} is damaged: a chunk has the wrong size.`);
    const walk = (axis, from, to) => {
      const [start, stop] = box[axis];
      const first = place[axis] * chunk[axis];
      const [low, high] = [Math.max(start, first), Math.min(stop, first + chunk[axis])];
      const last = axis === chunk.length - 1;
      for (let i = low; i < high; i++) {
        const source = from * chunk[axis] + i - first;
        const target = to * (stop - start) + i - start;
        if (last) result[target] = number(view, source * item);
        else walk(axis + 1, source, target);
      }
    };
    walk(0, 0, 0);
  }
}

function key(array, name, place) {
  const encoding = array.chunk_key_encoding ?? { name: "default" };
  const separator = encoding.configuration?.separator ?? "/";
  return `${name}/${["c", ...place].join(separator)}`;
}

function decode(data, array, where) {
  let bytes = new Uint8Array(data);
  for (const { name, configuration } of [...array.codecs].reverse()) {
    if (name === "bytes" && (configuration?.endian ?? "little") === "little") continue;
    if (name !== "blosc") throw new SiteError(`This page cannot unpack ${where}: it is packed with ${name}.`);
    try {
      bytes = unpack(bytes);
    } catch (error) {
      throw new SiteError(`${where} is damaged: ${error.message}.`);
    }
  }
  return bytes;
}

const fillValue = ({ fill_value: value }) =>
  value === "Infinity" ? Infinity : value === "-Infinity" ? -Infinity : Number(value);
