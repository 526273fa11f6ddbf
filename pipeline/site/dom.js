// Elements and the words in them. Texts of a catalogue are untrusted: they enter the page as text, never as markup.
//
//     h("p", { class: "note" }, "read ", h("b", {}, name))

const SVG = "http://www.w3.org/2000/svg";

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

export const h = (tag, properties = {}, ...children) => fill(document.createElement(tag), properties, children);
export const svg = (tag, properties = {}, ...children) =>
  fill(document.createElementNS(SVG, tag), properties, children);

const COUNTS = new Intl.NumberFormat("en");

export const count = (number) => COUNTS.format(number);

/** A measured number to four digits: 0.01234, 12.34, 1,234, 1.234e+7. */
export function measure(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return value.toExponential(3);
  if (size >= 1000) return COUNTS.format(Math.round(value));
  return value.toPrecision(4);
}

export const day = (iso) => String(iso ?? "").slice(0, 10);

export function bytes(size) {
  if (!Number.isFinite(size)) return "–";
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let unit = 0;
  for (; size >= 1000 && unit < 4; unit++) size /= 1000;
  return `${unit && size < 10 ? size.toFixed(1) : Math.round(size)} ${units[unit]}`;
}

/** A source as a link if it is a web page's address; anything else as text. */
export function source(url) {
  if (/^https?:\/\/[^\s{}]+$/i.test(url)) return h("a", { href: url, rel: "noopener noreferrer nofollow" }, url);
  return h("code", {}, url);
}

/** A hash route; parameters, an object or pairs, that are empty are left out. */
export function route(path, parameters = {}) {
  const search = new URLSearchParams();
  for (const [name, value] of Array.isArray(parameters) ? parameters : Object.entries(parameters)) {
    if (value !== null && value !== undefined && value !== "") search.append(name, value);
  }
  const query = search.toString();
  return `#/${path.map(encodeURIComponent).join("/")}${query && `?${query}`}`;
}

let made = 0;
/** An id that nothing else on the page has, to tie a label to its field. */
export const unique = (name) => `${name}-${++made}`;

export function select(label, options, value, changed) {
  const id = unique("select");
  const field = h("select", { id, onchange: () => changed(field.value) });
  for (const [key, text] of options) field.append(h("option", { value: key, selected: key === value }, text));
  return h("div", { class: "field" }, h("label", { for: id }, label), field);
}

/** A field that completes names; `chosen` is called with one that exists. */
export function chooser(label, names, value, chosen) {
  const id = unique("names");
  const known = new Map(names.map((name) => [name.toLowerCase(), name]));
  for (const name of names) known.set(name, name); // as it is written, where two differ by case
  const wrong = h("p", { class: "wrong", id: `${id}-wrong`, role: "status" });
  const list = h(
    "datalist",
    { id: `${id}-list` },
    names.map((name) => h("option", { value: name })),
  );
  const field = h("input", {
    id,
    list: `${id}-list`,
    value,
    autocomplete: "off",
    spellcheck: "false",
    "aria-describedby": wrong.id,
  });
  field.addEventListener("change", () => {
    const typed = field.value.trim();
    const name = known.get(typed) ?? known.get(typed.toLowerCase());
    const is = name !== undefined || !typed;
    field.setAttribute("aria-invalid", String(!is));
    wrong.textContent = is ? "" : `This catalogue has no dataset ${typed}.`;
    if (is) chosen(name ?? "");
  });
  return h("div", { class: "field" }, h("label", { for: id }, label), field, list, wrong);
}

/** Put new fields, by name, in place of old ones; the one that had the focus has it again, what was open is open. */
export function refill(element, fields) {
  const focused = spot(element);
  const open = element.querySelector("details")?.open;
  const scrolled = element.querySelector("fieldset")?.scrollTop ?? 0;
  for (const [name, field] of Object.entries(fields)) if (field) field.dataset.name = name;
  element.replaceChildren(...Object.values(fields).filter(Boolean));
  if (open) element.querySelector("details")?.setAttribute("open", "");
  if (scrolled) element.querySelector("fieldset")?.scrollTo(0, scrolled);
  if (focused) element.querySelector(focused)?.focus({ preventScroll: true });
}

/** A selector of what has the focus, that finds it when the page was made anew; "" if it cannot be told. */
export function spot(element) {
  const focused = document.activeElement;
  if (!element.contains(focused)) return "";
  const name = focused.closest("[data-name]")?.dataset.name;
  const which = focused.type === "checkbox" ? `input[value="${CSS.escape(focused.value)}"]` : focused.localName;
  if (name) return `[data-name="${CSS.escape(name)}"]:is(${which}), [data-name="${CSS.escape(name)}"] ${which}`;
  return focused.matches("a[href]") ? `a[href="${CSS.escape(focused.getAttribute("href"))}"]` : "";
}

export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
