// Unpacks a Blosc 1 container of Zstandard streams, with or without byte shuffle, as the catalogue's arrays are packed.
//
//     unpack(new Uint8Array(chunk))        // Uint8Array of the array's bytes, little endian
//
// The layout is that of c-blosc's README_CHUNK_FORMAT: 16 bytes of header, the blocks' starts, then blocks of streams,
// each with its length before it; a stream that did not get smaller is stored as it is.

import { decompress } from "./vendor/fzstd.js";

const SHUFFLED = 1;
const COPIED = 2;
const BITS = 4;
const WHOLE = 16;
const ZSTD = 4;
const MOST_STREAMS = 16;
const LEAST_STREAM = 128;

export function unpack(chunk) {
  const view = new DataView(chunk.buffer, chunk.byteOffset, chunk.byteLength);
  if (chunk.length < 16) throw new Error("a chunk is cut short");
  const flags = chunk[2];
  const item = chunk[3];
  const [size, block, stored] = [4, 8, 12].map((at) => view.getUint32(at, true));
  if (stored !== chunk.length) throw new Error("a chunk is cut short");
  if (flags & COPIED) return chunk.slice(16, 16 + size);
  if (flags & BITS || flags >> 5 !== ZSTD) throw new Error("a chunk is packed with a method that this page does not support");
  const result = new Uint8Array(size);
  if (!size) return result;
  const shuffled = flags & SHUFFLED && item > 1;
  const scratch = shuffled ? new Uint8Array(block) : null;
  for (let number = 0, start = 0; start < size; number++, start += block) {
    const length = Math.min(block, size - start);
    const target = result.subarray(start, start + length);
    const streams = split(flags, item, block) && length === block ? item : 1;
    streamsInto(
      shuffled ? scratch.subarray(0, length) : target,
      chunk,
      view,
      view.getInt32(16 + 4 * number, true),
      streams,
    );
    if (shuffled) unshuffle(scratch, target, length, item);
  }
  return result;
}

const split = (flags, item, block) => !(flags & WHOLE) && item <= MOST_STREAMS && block / item >= LEAST_STREAM;

function streamsInto(target, chunk, view, at, streams) {
  const each = target.length / streams;
  for (let i = 0; i < streams; i++) {
    const packed = view.getInt32(at, true);
    at += 4;
    const bytes = chunk.subarray(at, at + packed);
    if (packed < 0 || bytes.length !== packed) throw new Error("a chunk is cut short");
    const part = target.subarray(i * each, (i + 1) * each);
    const found = packed === each ? bytes : decompress(bytes);
    if (found.length !== each) throw new Error("a chunk unpacks to the wrong size");
    part.set(found);
    at += packed;
  }
}

/** First all first bytes, then all second bytes, …: back to item after item. */
function unshuffle(source, target, length, item) {
  const items = Math.floor(length / item);
  for (let byte = 0; byte < item; byte++) {
    const from = byte * items;
    for (let i = 0, to = byte; i < items; i++, to += item) target[to] = source[from + i];
  }
  for (let i = items * item; i < length; i++) target[i] = source[i];
}
