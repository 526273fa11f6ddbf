// Starts the page: reads the catalogue, shows what the address after # asks for, and keeps the theme.
//
//     #/   #/matrix   #/dataset/NAME?spec=…   #/pair/A/B?spec=…&layer=…&neuron=…

import { SiteError, load } from "./data.js";
import { h, route } from "./dom.js";

const PAGES = {
  "": () => import("./home.js"),
  matrix: () => import("./matrix.js"),
  dataset: () => import("./dataset.js"),
  pair: () => import("./pair.js"),
};
const main = document.getElementById("main");
const status = document.getElementById("status");
const scrolled = new Map();
let catalogue = null;
let turn = 0;
let leave = null;
let here = location.hash;
let forward = false;

function parsed() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  let parts;
  try {
    parts = path.split("/").filter(Boolean).map(decodeURIComponent);
  } catch {
    parts = ["?"];
  }
  return { page: parts[0] ?? "", names: parts.slice(1), parameters: Object.fromEntries(new URLSearchParams(query)) };
}

async function show(first = false) {
  const mine = ++turn;
  const height = forward ? 0 : (scrolled.get(location.hash) ?? 0); // back leads to where one was
  forward = false;
  const { page, names, parameters } = parsed();
  for (const link of document.querySelectorAll(".top nav a")) {
    const is = link.getAttribute("href") === `#/${page}`;
    if (is) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const article = h("article", { class: page || "home" });
  const context = {
    catalogue,
    parameters,
    names,
    /** What the page is of, in the window's title. */
    title: (text) => {
      if (mine === turn) document.title = text ? `${text} · VDNA catalogue` : "VDNA catalogue";
    },
    /** Keep what was chosen on this page in its address, so that it can be sent on. */
    keep: (chosen, path = [page, ...names].filter(Boolean)) => {
      if (mine !== turn) return;
      history.replaceState(history.state, "", route(path, chosen));
      here = location.hash;
    },
    go: (path, chosen) => {
      forward = true;
      location.hash = route(path, chosen);
    },
    say: (text) => {
      if (mine === turn) status.textContent = text;
    },
    current: () => mine === turn,
  };
  leave?.();
  leave = null;
  try {
    if (!Object.hasOwn(PAGES, page)) throw new SiteError("There is no such page.", "Start from the datasets.");
    const module = await PAGES[page]().catch(() => {
      throw new SiteError(
        "This page's program cannot be fetched.",
        "Is the network there? Or it is newer by now: reload.",
      );
    });
    if (mine !== turn) return;
    main.replaceChildren(article);
    const left = await module.show(article, context);
    if (mine === turn) leave = left ?? null;
    else left?.();
  } catch (error) {
    if (mine === turn) fail(error);
  }
  if (mine !== turn || first) return;
  const heading = main.querySelector("h1");
  heading?.setAttribute("tabindex", "-1");
  heading?.focus({ preventScroll: true });
  scrollTo(0, height);
}

function fail(error) {
  if (!(error instanceof SiteError)) console.error(error);
  document.title = "VDNA catalogue";
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
  history.scrollRestoration = "manual";
  addEventListener("click", (event) => {
    if (event.target.closest?.('a[href^="#/"]')) forward = true;
  });
  addEventListener("scroll", () => scrolled.set(here, scrollY), { passive: true });
  addEventListener("hashchange", () => {
    here = location.hash;
    if (catalogue) show();
  });
  try {
    catalogue = await load();
  } catch (error) {
    fail(error);
    return;
  }
  await show(true);
  document.documentElement.dataset.ready = "true";
}

start();
