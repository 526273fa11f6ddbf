// A map of the datasets on a canvas: like ones lie close together. Wheel, pinch, drag, buttons and keys move it.
//
//     const map = new DatasetMap(canvas, { xy, names, hues, radii }, { focused, opened });
//     map.match(new Set([3, 5]));      // the others are dimmed

import { colour } from "./dom.js";
import { listen } from "./pointing.js";

const MOST = 60;
const NEAR = 14;
const MARGIN = 34;

/** Colours of equal lightness around the circle, so that none stands out; `share` is 0 to 1. */
export function hue(share, dark) {
  return `oklch(${dark ? 0.74 : 0.6} 0.12 ${(30 + 310 * share).toFixed(1)})`;
}

export class DatasetMap {
  constructor(canvas, points, { focused, opened }) {
    Object.assign(this, { canvas, points, focused, opened });
    this.n = points.names.length;
    this.focus = -1;
    this.matching = null;
    this.reset(false);
    this._listen();
  }

  destroy() {
    this.observer.disconnect();
    removeEventListener("themechange", this.draw);
  }

  reset(draw = true) {
    this.scale = 1;
    this.centre = [0, 0];
    this._moved(draw);
  }

  match(matching) {
    this.matching = matching;
    this.draw();
  }

  /** Zoom by a factor around a place on the canvas, its middle if none is given. */
  zoom(factor, x = this.width / 2, y = this.height / 2) {
    const before = this._unplace(x, y);
    this.scale = Math.min(Math.max(this.scale * factor, 1), MOST);
    const after = this._unplace(x, y);
    this.centre = [this.centre[0] + before[0] - after[0], this.centre[1] + before[1] - after[1]];
    this._moved();
  }

  pan(dx, dy) {
    this.centre = [this.centre[0] - dx / this._unit(), this.centre[1] + dy / this._unit(1)];
    this._moved();
  }

  /** Make a dataset the one that is named and that Enter opens; -1 for none. */
  point(which, reveal = false) {
    if (which === this.focus && !reveal) return;
    this.focus = which;
    if (reveal && which >= 0) {
      const [x, y] = this.place(which);
      const left = Math.min(x - MARGIN, 0) + Math.max(x - this.width + MARGIN, 0);
      const top = Math.min(y - MARGIN, 0) + Math.max(y - this.height + MARGIN, 0);
      if (left || top) this.pan(-left, -top);
    }
    this.draw();
    this.focused(which);
  }

  _unit(axis = 0) {
    // The map fills its frame: distances matter by how they compare, and a map much wider than high would be small.
    const extent = this.points.extent[axis] || 1;
    const both = [(this.width - 2 * MARGIN) / 2, (this.height - 2 * MARGIN) / 2];
    const even = Math.min(both[0] / (this.points.extent[0] || 1), both[1] / (this.points.extent[1] || 1));
    return Math.min(both[axis] / extent, even * 1.6) * this.scale;
  }

  place(i) {
    const x = this.points.xy[2 * i] - this.points.middle[0] - this.centre[0];
    const y = this.points.xy[2 * i + 1] - this.points.middle[1] - this.centre[1];
    return [this.width / 2 + x * this._unit(), this.height / 2 - y * this._unit(1)];
  }

  _unplace(x, y) {
    return [
      (x - this.width / 2) / this._unit() + this.centre[0],
      (this.height / 2 - y) / this._unit(1) + this.centre[1],
    ];
  }

  _moved(draw = true) {
    // What would lead away from every dataset is not followed.
    const room = 1 - 1 / this.scale;
    this.centre = this.centre.map((c, axis) => {
      const most = (this.points.extent[axis] || 1) * room + (this.scale > 1 ? 0.1 : 0);
      return Math.min(Math.max(c, -most), most);
    });
    // A finger scrolls the page until the map is zoomed; then it moves the map.
    this.canvas.style.touchAction = this.scale > 1 ? "none" : "pan-y";
    if (draw) this.draw();
  }

  _at(x, y) {
    let best = -1;
    let least = NEAR;
    for (let i = 0; i < this.n; i++) {
      if (this.matching && !this.matching.has(i)) continue;
      const [px, py] = this.place(i);
      const far = Math.hypot(px - x, py - y) - this.points.radii[i] / 2;
      if (far < least) [best, least] = [i, far];
    }
    return best;
  }

  hover(x, y) {
    this.point(this._at(x, y));
  }

  tap(x, y, touch) {
    const found = this._at(x, y);
    // A finger covers what it touches: it names a dataset first, and opens it when it comes again.
    if (found >= 0 && (!touch || found === this.focus)) this.opened(found);
    else this.point(found);
  }

  get whole() {
    return this.scale === 1;
  }

  _listen() {
    const { canvas } = this;
    listen(canvas, this);
    canvas.addEventListener("keydown", (event) => this._key(event));
    canvas.addEventListener("focus", () => {
      if (this.focus < 0 && this.n && canvas.matches(":focus-visible")) this._step(0, 0);
    });
    this.draw = this.draw.bind(this);
    addEventListener("themechange", this.draw);
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(canvas);
  }

  _key(event) {
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const arrow = arrows[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (arrow && event.shiftKey) this.pan(-60 * arrow[0], -60 * arrow[1]);
    else if (arrow) this._step(...arrow);
    else if (event.key === "+" || event.key === "=") this.zoom(1.5);
    else if (event.key === "-") this.zoom(1 / 1.5);
    else if (event.key === "0" || event.key === "Escape") this.reset();
    else if (event.key === "Enter" && this.focus >= 0) this.opened(this.focus);
    else return;
    event.preventDefault();
  }

  /** The next dataset in a direction: near, and not far off to the side. */
  _step(dx, dy) {
    const from = this.focus >= 0 ? this.place(this.focus) : [this.width / 2, this.height / 2];
    let best = this.focus;
    let least = Infinity;
    for (let i = 0; i < this.n; i++) {
      if (i === this.focus || (this.matching && !this.matching.has(i))) continue;
      const [x, y] = this.place(i);
      const along = (x - from[0]) * dx + (y - from[1]) * dy;
      const aside = Math.abs((x - from[0]) * dy) + Math.abs((y - from[1]) * dx);
      const cost = dx || dy ? along + 2.5 * aside : Math.hypot(x - from[0], y - from[1]);
      if ((along > 0.5 || !(dx || dy)) && cost < least) [best, least] = [i, cost];
    }
    this.point(best, true);
  }

  draw() {
    const { canvas } = this;
    this.width = canvas.clientWidth;
    this.height = canvas.clientHeight;
    if (!this.width) return;
    const dense = Math.min(devicePixelRatio || 1, 3);
    canvas.width = Math.round(this.width * dense);
    canvas.height = Math.round(this.height * dense);
    const pen = canvas.getContext("2d");
    pen.scale(dense, dense);
    const dark = document.documentElement.dataset.theme === "dark";
    const grow = Math.min(1 + Math.log2(this.scale) / 6, 1.7);
    const dots = Array.from({ length: this.n }, (_, i) => ({ i, at: this.place(i), r: this.points.radii[i] * grow }));
    const lit = (i) => !this.matching || this.matching.has(i);
    const seen = dots.filter(
      ({ at }) => at[0] > -20 && at[0] < this.width + 20 && at[1] > -20 && at[1] < this.height + 20,
    );
    seen.sort((a, b) => lit(a.i) - lit(b.i));
    for (const { i, at, r } of seen) {
      pen.globalAlpha = lit(i) ? 0.82 : 0.12;
      pen.fillStyle = hue(this.points.hues[i], dark);
      pen.beginPath();
      pen.arc(at[0], at[1], r, 0, 7);
      pen.fill();
    }
    pen.globalAlpha = 1;
    this._label(
      pen,
      seen.filter(({ i }) => lit(i)),
    );
  }

  /** Names where there is room: the largest first, none over another, and always that of the one in focus. */
  _label(pen, seen) {
    const [ink, paper, accent] = ["--ink", "--panel", "--accent"].map(colour);
    const focus = seen.find(({ i }) => i === this.focus);
    const first = (dot) => (dot === focus ? 1 : 0);
    const inOrder = [...seen].sort((a, b) => first(b) - first(a) || this.points.radii[b.i] - this.points.radii[a.i]);
    const taken = [[this.width - 132, 0, this.width, 54]]; // the buttons
    pen.textBaseline = "middle";
    pen.lineJoin = "round";
    for (const dot of inOrder.slice(0, 400)) {
      const { i, at, r } = dot;
      pen.font = `${dot === focus ? "600 13" : "12"}px system-ui, sans-serif`;
      const wide = pen.measureText(this.points.names[i]).width;
      const sides = [
        [at[0] + r + 4, at[1]],
        [at[0] - r - 4 - wide, at[1]],
        [at[0] - wide / 2, at[1] - r - 9],
        [at[0] - wide / 2, at[1] + r + 9],
      ];
      const boxed = ([x, y]) => [x - 3, y - 8, x + wide + 3, y + 8];
      const inside = (b) => b[0] >= 0 && b[1] >= 0 && b[2] <= this.width && b[3] <= this.height;
      const free = (b) => taken.every((t) => b[2] < t[0] || b[0] > t[2] || b[3] < t[1] || b[1] > t[3]);
      // Names are to be read beside the dots, not instead of them.
      const bare = (b) =>
        seen.every(
          ({ at: [x, y], i: j, r: round }) =>
            j === i || x < b[0] - round || x > b[2] + round || y < b[1] - round / 2 || y > b[3] + round / 2,
        );
      let side = sides.find((place) => [inside, free, bare].every((test) => test(boxed(place))));
      if (dot === focus) side ??= sides.find((place) => inside(boxed(place))) ?? sides[0];
      if (!side) continue;
      const [left, middle] = side;
      taken.push(boxed(side));
      if (dot === focus) {
        pen.strokeStyle = accent;
        pen.lineWidth = 2;
        pen.beginPath();
        pen.arc(at[0], at[1], r + 3, 0, 7);
        pen.stroke();
      }
      pen.strokeStyle = paper;
      pen.lineWidth = 4;
      pen.strokeText(this.points.names[i], left, middle);
      pen.fillStyle = ink;
      pen.fillText(this.points.names[i], left, middle);
    }
  }
}
