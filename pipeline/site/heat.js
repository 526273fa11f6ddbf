// A matrix on a canvas: a cell for each pair, names along its sides. Keys, pointer and wheel go to a cell and zoom.
//
//     const heat = new Heat(canvas, { pointed, opened });
//     heat.show({ names, order, at: (i, j) => value, share: (value) => 0 to 1 });

import { colour } from "./dom.js";
import { listen } from "./pointing.js";
import { RAMP } from "./ramp.js";

const LINE = 13;
const MOST = 44;

export class Heat {
  constructor(canvas, { pointed, opened }) {
    Object.assign(this, { canvas, pointed, opened, cell: null, size: 0 });
    this.draw = this.draw.bind(this);
    addEventListener("themechange", this.draw);
    this.observer = new ResizeObserver(() => this._resized());
    this.observer.observe(canvas);
    this._listen();
  }

  destroy() {
    this.observer.disconnect();
    removeEventListener("themechange", this.draw);
  }

  show({ names, order, at, share }) {
    Object.assign(this, { names, order, at, share, n: order.length, cell: null });
    const image = new ImageData(this.n, this.n);
    const words = new Uint32Array(image.data.buffer);
    // The scale's colours as pixels; on every machine with a browser the first byte is the lowest.
    const ramp = RAMP.map(([r, g, b]) => (0xff000000 | (b << 16) | (g << 8) | r) >>> 0);
    for (let row = 0; row < this.n; row++) {
      for (let column = 0; column <= row; column++) {
        const value = row === column ? 0 : at(order[row], order[column]);
        const pixel = ramp[Math.round(255 * share(value))];
        words[row * this.n + column] = words[column * this.n + row] = pixel;
      }
    }
    this.picture = new OffscreenCanvas(this.n, this.n);
    this.picture.getContext("2d").putImageData(image, 0, 0);
    this.reset();
  }

  reset() {
    this._measure();
    this.size = this.plot / (this.n || 1);
    this.corner = [0, 0];
    this._moved();
  }

  zoom(factor, x = this.gutter + this.plot / 2, y = this.gutter + this.plot / 2) {
    const [column, row] = [
      this.corner[0] + (x - this.gutter) / this.size,
      this.corner[1] + (y - this.gutter) / this.size,
    ];
    const least = this.plot / this.n;
    this.size = Math.min(Math.max(this.size * factor, least), Math.max(MOST, least));
    this.corner = [column - (x - this.gutter) / this.size, row - (y - this.gutter) / this.size];
    this._moved();
  }

  _measure() {
    this.width = this.canvas.clientWidth;
    this.gutter = Math.round(Math.min(Math.max(this.width * 0.2, 74), 190));
    this.plot = Math.max(this.width - this.gutter - 1, 10);
  }

  _resized() {
    if (!this.order) return;
    const zoomed = this.size / (this.plot / this.n);
    this._measure();
    this.size = (this.plot / this.n) * zoomed;
    this._moved();
  }

  _moved() {
    const most = Math.max(this.n - this.plot / this.size, 0);
    this.corner = this.corner.map((c) => Math.min(Math.max(c, 0), most));
    this.zoomed = this.size > (this.plot / this.n) * 1.001;
    this.canvas.style.touchAction = this.zoomed ? "none" : "pan-y";
    this.draw();
  }

  /** Go to a cell, by place in the order; null for none. */
  point(cell, reveal = false) {
    if (String(cell) === String(this.cell)) return;
    this.cell = cell;
    if (cell && reveal) {
      const room = this.plot / this.size;
      this.corner = this.corner.map((c, axis) => Math.min(Math.max(c, cell[1 - axis] + 1 - room), cell[1 - axis]));
      this._moved();
    } else this.draw();
    this.pointed(cell && cell.map((place) => this.order[place]));
  }

  _at(x, y) {
    const cell = [y, x].map((at, axis) => Math.floor(this.corner[1 - axis] + (at - this.gutter) / this.size));
    const inside = x >= this.gutter && y >= this.gutter && cell.every((place) => place >= 0 && place < this.n);
    return inside ? cell : null;
  }

  hover(x, y) {
    this.point(this._at(x, y));
  }

  tap(x, y, touch) {
    const cell = this._at(x, y);
    if (!cell) return;
    // A finger covers what it touches: it names a pair first, and opens it when it comes again.
    const again = String(cell) === String(this.cell);
    this.point(cell);
    if (!touch || again) this._open();
  }

  pan(dx, dy) {
    this.corner = [this.corner[0] - dx / this.size, this.corner[1] - dy / this.size];
    this._moved();
  }

  get whole() {
    return !this.zoomed;
  }

  _listen() {
    const { canvas } = this;
    listen(canvas, this);
    canvas.addEventListener("keydown", (event) => this._key(event));
    canvas.addEventListener("focus", () => {
      if (!this.cell && this.n && canvas.matches(":focus-visible")) this.point([0, Math.min(1, this.n - 1)], true);
    });
  }

  _open() {
    const [row, column] = this.cell;
    if (row !== column) this.opened(this.order[row], this.order[column]);
  }

  _key(event) {
    const arrows = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    if (event.ctrlKey || event.metaKey || event.altKey || !this.n) return;
    const [row, column] = this.cell ?? [0, 0];
    const inside = (place) => Math.min(Math.max(place, 0), this.n - 1);
    const step = event.shiftKey ? 10 : 1;
    if (arrows[event.key])
      this.point([inside(row + step * arrows[event.key][0]), inside(column + step * arrows[event.key][1])], true);
    else if (event.key === "Home") this.point([row, 0], true);
    else if (event.key === "End") this.point([row, this.n - 1], true);
    else if (event.key === "+" || event.key === "=") this._about(1.5);
    else if (event.key === "-") this._about(1 / 1.5);
    else if (event.key === "0" || event.key === "Escape") this.reset();
    else if (event.key === "Enter" && this.cell) this._open();
    else return;
    event.preventDefault();
  }

  /** Zoom around the cell that is pointed at. */
  _about(factor) {
    if (!this.cell) this.zoom(factor);
    else
      this.zoom(factor, ...[1, 0].map((axis, i) => this.gutter + (this.cell[axis] + 0.5 - this.corner[i]) * this.size));
  }

  draw() {
    if (!this.order || !this.width) return;
    const dense = Math.min(devicePixelRatio || 1, 3);
    const height = this.gutter + this.plot + 1;
    const { canvas, gutter, plot, size, corner } = this;
    canvas.width = Math.round(this.width * dense);
    canvas.height = Math.round(height * dense);
    canvas.style.height = `${height}px`;
    const pen = canvas.getContext("2d");
    pen.scale(dense, dense);
    const room = plot / size;
    // Cells smaller than a pixel are averaged, larger ones have sharp edges.
    pen.imageSmoothingEnabled = size * dense < 1;
    pen.imageSmoothingQuality = "high";
    pen.drawImage(this.picture, corner[0], corner[1], room, room, gutter, gutter, plot, plot);
    const [muted, accent, ink] = ["--muted", "--accent", "--ink"].map(colour);
    this._names(pen, muted, ink);
    if (this.cell) {
      const [x, y] = [1, 0].map((axis, i) => gutter + (this.cell[axis] - corner[i]) * size);
      pen.save();
      pen.beginPath();
      pen.rect(gutter, gutter, plot, plot);
      pen.clip();
      pen.fillStyle = accent;
      pen.globalAlpha = 0.35;
      pen.fillRect(gutter, y + size / 2 - 0.5, plot, 1);
      pen.fillRect(x + size / 2 - 0.5, gutter, 1, plot);
      pen.globalAlpha = 1;
      const grown = Math.max(size, 5);
      pen.lineWidth = 3;
      pen.strokeStyle = "#000";
      pen.strokeRect(x + (size - grown) / 2, y + (size - grown) / 2, grown, grown);
      pen.lineWidth = 1.5;
      pen.strokeStyle = "#fff";
      pen.strokeRect(x + (size - grown) / 2, y + (size - grown) / 2, grown, grown);
      pen.restore();
    }
  }

  /** Names along both sides; where lines would touch, every second, third, … and always those of the cell. */
  _names(pen, muted, ink) {
    const every = Math.max(Math.ceil(LINE / this.size), 1);
    pen.textBaseline = "middle";
    for (const axis of [0, 1]) {
      const own = this.cell ? this.cell[axis] : -1;
      const start = this.corner[1 - axis];
      const places = [];
      for (let i = Math.ceil(start / every) * every; i < Math.min(this.n, start + this.plot / this.size); i += every) {
        if (own < 0 || Math.abs(i - own) * this.size >= LINE) places.push(i);
      }
      if (own >= start && own < start + this.plot / this.size) places.push(own);
      for (const i of places) {
        const at = this.gutter + (i + 0.5 - start) * this.size;
        if (at < this.gutter || at > this.gutter + this.plot) continue;
        pen.save();
        pen.font = `${i === own ? "600 " : ""}11px system-ui, sans-serif`;
        pen.fillStyle = i === own ? ink : muted;
        pen.textAlign = axis ? "left" : "right";
        if (axis) {
          pen.translate(at, this.gutter - 6);
          pen.rotate(-Math.PI / 2);
        } else pen.translate(this.gutter - 6, at);
        pen.fillText(fitted(pen, this.names[this.order[i]], this.gutter - 10), 0, 0);
        pen.restore();
      }
    }
  }
}

function fitted(pen, text, width) {
  if (pen.measureText(text).width <= width) return text;
  // Like names often begin alike: their ends are kept as well.
  let cut = text;
  for (let length = text.length - 1; length > 2 && pen.measureText(cut).width > width; length--) {
    const end = Math.min(5, Math.floor(length * 0.45));
    cut = `${text.slice(0, length - end)}…${text.slice(-end)}`;
  }
  return cut;
}
