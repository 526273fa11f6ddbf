// A table that sorts by its columns and shows its rows a hundred at a time; sorting and searching cover all of them.
//
//     const table = sortable("Datasets", [{ name: "Images", key: (row) => row.images, cell: (row) => …, number: true }], rows);
//     table.filter((row) => row.dataset.includes(words));      // how many are left

import { count, h } from "./dom.js";

const STEP = 100;
const TEXTS = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

export function sortable(caption, columns, rows, { sort = null, step = STEP, sorted = () => {} } = {}) {
  let by = columns[0].sortable === false ? null : 0;
  let down = false;
  if (sort) {
    const named = columns.findIndex((column) => column.name.toLowerCase() === sort.replace(/^-/, "").toLowerCase());
    if (named >= 0) [by, down] = [named, sort.startsWith("-")];
  }
  let wanted = () => true;
  let found = [];
  let shown = step;
  const heads = columns.map((column, i) =>
    h(
      column.name ? "th" : "td",
      { scope: column.name ? "col" : null, class: kind(column) },
      column.sortable === false ? column.name : h("button", { type: "button", onclick: () => turn(i) }, column.name),
    ),
  );
  const body = h("tbody");
  const more = h("button", { type: "button", onclick: grow });
  const rest = h("p", { class: "more" }, more);
  const table = h("table", {}, h("caption", { class: "unseen" }, caption), h("thead", {}, h("tr", {}, heads)), body);
  const element = h("div", { class: "listing" }, table, rest);

  function turn(i) {
    // Numbers and dates are looked at from the top.
    if (by === i) down = !down;
    else [by, down] = [i, Boolean(columns[i].number || columns[i].down)];
    shown = step;
    refresh();
    sorted(`${down ? "-" : ""}${columns[by].name.toLowerCase()}`);
  }

  function refresh() {
    found = rows.filter(wanted);
    if (by !== null) {
      const { key, number } = columns[by];
      const compare = number ? (a, b) => a[0] - b[0] : (a, b) => TEXTS.compare(a[0], b[0]);
      const keyed = found.map((row) => [key(row), row]);
      keyed.sort(down ? (a, b) => compare(b, a) : compare);
      found = keyed.map(([, row]) => row);
    }
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
    filter(test) {
      wanted = test;
      shown = step;
      refresh();
      return found.length;
    },
  };
}

const kind = (column) => [column.number && "number", column.class].filter(Boolean).join(" ") || null;
