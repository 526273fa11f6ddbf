// Starts the page: reads the catalogue, shows what the address after # asks for, and keeps the theme.
//
//     #/   #/matrix   #/dataset/NAME?spec=…   #/pair/A/B?spec=…&layer=…&neuron=…

import { SiteError, load } from "./data.js";
import { h, route } from "./dom.js";
import { Asked, WrongLink, told } from "./links.js";
import { restore, step, steps } from "./steps.js";

const PAGES = {
  "": () => import("./home.js"),
  matrix: () => import("./matrix.js"),
  dataset: () => import("./dataset.js"),
  pair: () => import("./pair.js"),
};
const main = document.getElementById("main");
const status = document.getElementById("status");
let catalogue = null;
let turn = 0;
let leave = null;
let settled = false;

async function show({ first = false, note = null } = {}) {
  const mine = ++turn;
  settled = false;
  const context = {
    catalogue,
    asked: null,
    note,
    /** What the page is of, in the window's title. */
    title: (text) => {
      if (mine === turn) document.title = text ? `${text} · VDNA catalogue` : "VDNA catalogue";
    },
    /** Keep what was chosen in a field of this page in its address: a step, which Back undoes. */
    keep: (chosen, field) => {
      if (mine === turn) step(route(context.asked.path, chosen), field);
    },
    /** Show another page, or this one with something else chosen in a field; `note` is said on it. */
    go: (path, chosen, field = "", note = null) => {
      step(route(path, chosen), field);
      show({ note });
    },
    say: (text) => {
      if (mine === turn) status.textContent = text;
    },
    current: () => mine === turn,
  };
  leave?.();
  leave = null;
  try {
    const asked = new Asked(location.hash);
    const [page] = asked.path;
    current(page);
    asked.page(Object.keys(PAGES), [
      ["", "Datasets"],
      ["matrix", "Matrix"],
    ]);
    context.asked = asked;
    const module = await PAGES[page]().catch(() => {
      throw new SiteError(
        "The program of this page cannot be fetched.",
        "Check the network connection. If the site was published anew meanwhile, reload the page.",
      );
    });
    if (mine !== turn) return;
    const article = h("article", { class: page || "home" });
    main.replaceChildren(article);
    const left = await module.show(article, context);
    if (mine === turn) leave = left ?? null;
    else left?.();
  } catch (error) {
    if (mine === turn) fail(error);
  }
  if (mine !== turn) return;
  settled = true;
  restore(first);
}

/** Mark which of the pages above is shown. */
function current(page) {
  for (const link of document.querySelectorAll(".top nav a")) {
    if (link.getAttribute("href") === `#/${page}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function fail(error) {
  if (!(error instanceof SiteError)) console.error(error);
  document.title = "VDNA catalogue";
  if (error instanceof WrongLink) {
    document.title = "Not here · VDNA catalogue";
    main.replaceChildren(h("div", { class: "failure" }, told(error)));
    return;
  }
  const hint = error.hint ?? "";
  main.replaceChildren(
    h(
      "div",
      { class: "failure", role: "alert" },
      h("h1", {}, "This cannot be shown"),
      h("p", {}, error.message),
      hint && h("p", {}, hint),
      h("p", {}, h("a", { href: "#/" }, "All datasets")),
    ),
  );
}

function themes() {
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  let kept = null;
  try {
    kept = localStorage.getItem("theme");
  } catch {
    // Storage may be forbidden; then the choice lasts as long as the page.
  }
  const apply = () => {
    const dark = kept ? kept === "dark" : system.matches;
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    button.textContent = dark ? "Light" : "Dark";
    button.setAttribute("aria-label", `${dark ? "Light" : "Dark"} colours`);
    dispatchEvent(new Event("themechange"));
  };
  button.addEventListener("click", () => {
    kept = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("theme", kept);
    } catch {
      // as above
    }
    apply();
  });
  system.addEventListener("change", apply);
  apply();
}

async function start() {
  themes();
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address after # is the page's, not a place in it
    main.focus();
  });
  // What fails after a choice on a page: old numbers must not stand under a new choice.
  addEventListener("unhandledrejection", (event) => {
    event.preventDefault();
    leave?.();
    leave = null;
    fail(event.reason);
  });
  steps(main, () => settled, () => catalogue && show());
  try {
    catalogue = await load();
  } catch (error) {
    fail(error);
    return;
  }
  await show({ first: true });
  document.documentElement.dataset.ready = "true";
}

start();
