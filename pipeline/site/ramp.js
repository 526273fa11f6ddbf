// A scale of colours in which equal steps look equally large: from a dark violet over green to a light yellow.
//
//     const [r, g, b] = RAMP[Math.round(255 * share)];

// Stops of ours in OKLCH; in between lightness, chroma and hue go evenly, so the eye's steps are the numbers' steps.
const STOPS = [
  [0.25, 0.11, 305],
  [0.4, 0.125, 275],
  [0.55, 0.1, 220],
  [0.69, 0.115, 170],
  [0.82, 0.145, 130],
  [0.95, 0.15, 105],
];

export const RAMP = Array.from({ length: 256 }, (_, i) => {
  const at = (i / 255) * (STOPS.length - 1);
  const low = STOPS[Math.floor(at)];
  const high = STOPS[Math.ceil(at)];
  return toRgb(low.map((value, k) => value + (high[k] - value) * (at % 1)));
});

/** OKLCH to 8-bit sRGB (Ottosson 2020). */
function toRgb([lightness, chroma, degrees]) {
  const a = chroma * Math.cos((degrees * Math.PI) / 180);
  const b = chroma * Math.sin((degrees * Math.PI) / 180);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ].map((value) => {
    const bounded = Math.min(Math.max(value, 0), 1);
    return Math.round(255 * (bounded <= 0.0031308 ? 12.92 * bounded : 1.055 * bounded ** (1 / 2.4) - 0.055));
  });
}
