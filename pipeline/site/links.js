// What a link asks for. What of it is not there is said, with links to what there is; nothing else is shown instead.
//
//     const asked = new Asked(location.hash);
//     const metric = asked.one("metric", [["emd", "EMD"]], "There is no such distance.");   // "" if the link has none
//     asked.checked();       // throws a WrongLink if anything was wrong, or is no parameter that was asked about

import { SiteError } from "./data.js";
import { h, route } from "./dom.js";

const NEAREST = 12;
const MOST = 10;

export class WrongLink extends SiteError {
  constructor(faults, without) {
    super("This link asks for something that is not here.");
    Object.assign(this, { faults, without });
  }
}

export class Asked {
  constructor(address) {
    const text = address.replace(/^#\/?/, "");
    const end = text.includes("?") ? text.indexOf("?") : text.length;
    this.faults = [];
    this.entries = [];
    this.known = [];
    this.wrong = new Set();
    this.mendable = true; // by leaving parameters out
    this.path = text
      .slice(0, end)
      .replace(/\/$/, "")
      .split("/")
      .map((part) => this._decoded(part));
    if (this.faults.length) this._refuse();
    this.mendable = true;
    for (const piece of text.slice(end + 1).split("&")) {
      const cut = piece.includes("=") ? piece.indexOf("=") : piece.length;
      const words = piece.replaceAll("+", " ");
      const [key, value] = [words.slice(0, cut), words.slice(cut + 1)].map((part) => this._decoded(part, piece));
      if (piece && key !== null && value !== null) this.entries.push([key, value]);
    }
  }

  /** The page, of those there are: pairs of name and text. */
  page(pages, offered) {
    const [page] = this.path;
    if (pages.includes(page)) return page;
    const choices = offered.map(([name, text]) => [text, route([name])]);
    this.fault(["The link asks for the page ", said(page), ". This site has no such page."], choices);
    return this._refuse();
  }

  /** A dataset that the path names in that place, of those there are. */
  dataset(place, known, missing) {
    const name = this.path[place];
    if (name && known.includes(name)) return name;
    const choices = known.map((other) => [other, this._link(Object.assign([...this.path], { [place]: other }))]);
    if (name) this.fault(["The link asks for the dataset ", said(name), ". ", missing], choices, name);
    else this.fault([`The link does not name ${place > 1 ? "the second" : "a"} dataset.`], choices);
    return this._refuse();
  }

  /** The path has no more than so many parts. */
  ends(length) {
    if (this.path.length <= length) return;
    const rest = this.path.slice(length).join("/");
    const choices = [["the page without this part", this._link(this.path.slice(0, length))]];
    this.fault(["The link continues with ", said(`/${rest}`), ", which names nothing on this page."], choices);
  }

  /** What the link gives for a parameter, "" if nothing. If there are `options`, pairs of value and text, one of them. */
  one(key, options = null, missing = "") {
    this.known.push(key);
    const all = this.entries.filter(([name]) => name === key).map(([, value]) => value);
    const [value = ""] = all;
    let words = null;
    if (all.length > 1) words = ["The link gives ", said(key), ` ${all.length} times: `, said(all.join(", ")), "."];
    else if (all.length && !value) words = ["The link gives ", said(key), " without a value."];
    else if (value && options && !options.some(([name]) => name === value))
      words = ["The link asks for ", said(`${key}=${value}`), ". ", missing];
    if (!words) return value;
    const choices = options ?? [...new Set(all)].filter(Boolean).map((each) => [each, each]);
    this.reject(key, words, choices, value);
    return "";
  }

  /** A number of `low` to `high` as it is usually written, "" if the link gives none. */
  number(key, low, high, what) {
    const value = this.one(key);
    const is = /^(0|[1-9]\d{0,9})$/.test(value) && Number(value) >= low && Number(value) <= high;
    if (!value || is) return value;
    this.reject(key, ["The link asks for ", said(`${key}=${value}`), `. ${what}`], []);
    return "";
  }

  /** A parameter is wrong; the choices are pairs of value and text. */
  reject(key, words, choices, near = "") {
    const links = choices.map(([value, text]) => [text, this._link(this.path, this._with(key, [[key, value]]))]);
    this.fault(words, links, near, key);
  }

  /** Something is wrong; the choices are pairs of text and link, those first that are like `near`. */
  fault(words, choices, near = "", key = null) {
    if (key === null) this.mendable = false;
    else this.wrong.add(key);
    this.faults.push({ words, choices: near ? closest(near, choices) : choices });
  }

  /** Nothing was wrong and nothing was left over. */
  checked() {
    for (const key of new Set(this.entries.map(([name]) => name))) {
      if (this.known.includes(key)) continue;
      const value = this.entries.find(([name]) => name === key)[1];
      const free = value ? this.known.filter((name) => this.entries.every(([taken]) => taken !== name)) : [];
      const choices = free.map((name) => [
        `${name}=${visible(value)}`,
        this._link(this.path, this._with(key, [[name, value]])),
      ]);
      const words = `. This page has no such parameter. Its parameters are ${this.known.join(", ")}.`;
      this.fault(["The link gives ", said(`${key}=${value}`), words], choices, key, key);
    }
    if (this.faults.length) this._refuse();
  }

  _refuse() {
    const entries = this.entries.filter(([key]) => !this.wrong.has(key));
    throw new WrongLink(this.faults, this.mendable ? this._link(this.path, entries) : null);
  }

  _with(key, instead) {
    return [...this.entries.filter(([name]) => name !== key), ...instead];
  }

  _link(path, entries = this.entries) {
    return route(path, entries);
  }

  _decoded(part, piece = part) {
    try {
      return decodeURIComponent(part);
    } catch {
      const words = ["In the link, ", said(piece), " is wrongly encoded: each % begins two hexadecimal digits of UTF-8."];
      this.fault(words, [], "", this.path && piece);
      return null;
    }
  }
}

/** What is wrong with a link, for the page. */
export function told({ message, faults, without }) {
  const more = faults.length - MOST;
  return [
    h("h1", {}, message),
    h("p", { class: "muted" }, "The link may be mistyped, or of an earlier state of the catalogue."),
    faults.slice(0, MOST).map(({ words, choices }) => [
      h("p", { role: "alert" }, words),
      choices.length > 0 && [h("p", { class: "label" }, "Available:"), list(choices.slice(0, NEAREST))],
      choices.length > NEAREST &&
        h("details", {}, h("summary", {}, `${choices.length - NEAREST} more`), list(choices.slice(NEAREST))),
    ]),
    more > 0 && h("p", {}, `${more} more parts of the link are wrong.`),
    without && h("p", {}, h("a", { href: without }, "The same page without the wrong parts")),
  ];
}

const list = (choices) =>
  h(
    "ul",
    { class: "choices" },
    choices.map(([text, href]) => h("li", {}, h("a", { href }, text))),
  );

/** A text of a link as it was written: what cannot be seen, or turns the text around, by its number. */
function visible(text) {
  const cut = text.length > 120 ? `${text.slice(0, 120)}…` : text;
  return cut.replace(/\p{C}/gu, (letter) => `\\u{${letter.codePointAt(0).toString(16)}}`);
}

export const said = (text) => h("code", { class: "asked" }, visible(text));

/** Choices by how many pairs of letters they have in common with a text. */
function closest(text, choices) {
  const pairs = (words) => {
    const letters = words.slice(0, 200).toLowerCase();
    return new Set(Array.from({ length: letters.length }, (_, i) => letters.slice(i, i + 2)));
  };
  const wanted = pairs(text);
  const like = choices.map((choice) => {
    const has = pairs(choice[0]);
    return [choice, [...has].filter((pair) => wanted.has(pair)).length / (has.size + wanted.size)];
  });
  return like.sort((a, b) => b[1] - a[1]).map(([choice]) => choice);
}
