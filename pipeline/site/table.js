// A table that sorts by its columns and shows its rows a hundred at a time; sorting and searching cover all of them.
//
//     const table = sortable("Datasets", [{ name: "Images", key: (row) => row.images, cell: (row) => …, number: true }], rows);
//     table.filter((row) => row.dataset.includes(words));      // how many are left
//
// Its order and length can be kept in the address: `changed({ sort, shown }, field)` is told of them before they change.

import { count, h } from "./dom.js";

const STEP = 100;
const TEXTS = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

const id = (column) => column.id ?? column.name.toLowerCase();

/** The orders there are, as an address has them, with words for them. */
export function orders(columns) {
  const sorted = columns.filter((column) => column.sortable !== false);
  return sorted.flatMap((column) => [
    [id(column), `by ${column.name}`],
    [`-${id(column)}`, `by ${column.name}, falling`],
  ]);
}

export function sortable(caption, columns, rows, { sort = "", shown: length = "", step = STEP, changed } = {}) {
  const named = columns.findIndex((column) => id(column) === sort.replace(/^-/, ""));
  let by = Math.max(named, 0);
  let down = sort.startsWith("-");
  let wanted = () => true;
  let found = [];
  let shown = Number(length) || step;
  const heads = columns.map((column, i) =>
    h(
      column.name ? "th" : "td",
      { scope: column.name ? "col" : null, class: kind(column), "data-name": `sort ${id(column)}` },
      column.sortable === false ? column.name : h("button", { type: "button", onclick: () => turn(i) }, column.name),
    ),
  );
  const body = h("tbody");
  const more = h("button", { type: "button", "data-name": "more", onclick: grow });
  const rest = h("p", { class: "more" }, more);
  const table = h("table", {}, h("caption", { class: "unseen" }, caption), h("thead", {}, h("tr", {}, heads)), body);
  const element = h("div", { class: "listing" }, table, rest);

  function turn(i) {
    // Numbers and dates are looked at from the top.
    if (by === i) down = !down;
    else [by, down] = [i, Boolean(columns[i].number || columns[i].down)];
    shown = step;
    tell("sort");
    refresh();
  }

  function tell(field) {
    changed?.({ sort: `${down ? "-" : ""}${id(columns[by])}`, shown: shown > step ? String(shown) : "" }, field);
  }

  function refresh() {
    found = rows.filter(wanted);
    const { key, number } = columns[by];
    const compare = number ? (a, b) => a[0] - b[0] : (a, b) => TEXTS.compare(a[0], b[0]);
    const keyed = found.map((row) => [key(row), row]);
    keyed.sort(down ? (a, b) => compare(b, a) : compare);
    found = keyed.map(([, row]) => row);
    heads.forEach((head, i) => {
      if (i === by) head.setAttribute("aria-sort", down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    body.replaceChildren();
    append(0);
    if (!found.length)
      body.append(h("tr", {}, h("td", { class: "nothing", colspan: columns.length }, "Nothing found.")));
  }

  function append(start) {
    body.append(...found.slice(start, shown).map(line));
    rest.hidden = found.length <= shown;
    more.textContent = `Show ${count(Math.min(step, found.length - shown))} more of ${count(found.length)}`;
  }

  function grow() {
    const start = shown;
    shown += step;
    tell("shown");
    append(start);
    body.children[start]?.querySelector("a, button")?.focus();
  }

  function line(row) {
    return h(
      "tr",
      {},
      columns.map((column, i) =>
        h(i ? "td" : "th", { scope: i ? null : "row", class: kind(column) }, column.cell(row) ?? ""),
      ),
    );
  }

  refresh();
  return {
    element,
    refresh,
    /** `top`: from its beginning again, as long as it was at first. */
    filter(test, top = false) {
      wanted = test;
      if (top) shown = step;
      refresh();
      return found.length;
    },
  };
}

const kind = (column) => [column.number && "number", column.class].filter(Boolean).join(" ") || null;
