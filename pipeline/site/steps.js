// The steps of the browser's history: each choice is one, and Back leads to the page as it was left.
//
//     steps(main, settled, show);      // once; `show` is called when Back, Forward or a link led elsewhere
//     step("#/matrix?metric=fd", "metric");
//
// Two rules keep them few. A search is one step from its first letter until the field is left or Enter is pressed. What
// arrow keys choose in one field, or its number's, is one step as long as each change comes within a second of the last.

import { spot } from "./dom.js";

const MOVING = 1000;
const MOST = 200;
const NOWHERE = { field: "", until: 0 };

const places = new Map(); // by the id of an entry of the history: how the page was left
let here = "";
let last = NOWHERE;
let keyed = false;
let held = false;
let pending = "";
let main = null;
let settled = null;

export function steps(element, shown, show) {
  [main, settled] = [element, shown];
  history.scrollRestoration = "manual";
  try {
    for (const [id, place] of JSON.parse(sessionStorage.getItem("vdna places") ?? "[]")) places.set(id, place);
  } catch {
    // Storage may be forbidden, or hold what is no list of ours; then a page that is loaded again begins at its top.
  }
  here = entry();
  const moved = () => {
    const id = entry();
    if (id === here) return;
    remember();
    [here, last, pending] = [id, NOWHERE, ""];
    show();
  };
  addEventListener("popstate", moved);
  addEventListener("hashchange", moved);
  addEventListener("keydown", (event) => {
    keyed = !["Enter", " "].includes(event.key);
    held = event.repeat;
  });
  addEventListener("keyup", () => {
    held = false;
    write();
  });
  addEventListener("pointerdown", () => (keyed = false), { capture: true });
  addEventListener("change", (event) => {
    if (event.target.type === "search") last = NOWHERE;
  });
  addEventListener("pagehide", () => {
    write();
    remember();
    try {
      sessionStorage.setItem("vdna places", JSON.stringify([...places].slice(-MOST)));
    } catch {
      // as above
    }
  });
}

/** The id of the history's present entry, which is given one if it has none. */
function entry() {
  if (typeof history.state?.id !== "string") history.replaceState({ id: fresh() }, "");
  return history.state.id;
}

const fresh = () => `${Date.now()}-${Math.random()}`;

/** Make an address the present one, as chosen in a field: a new step, or more of the last one. */
export function step(address, field) {
  write();
  if (address === location.hash) return;
  const moving = keyed || document.activeElement?.type === "number";
  const until = field === "q" ? Infinity : moving ? performance.now() + MOVING : 0;
  const goesOn = field && field === last.field && until && performance.now() < last.until;
  last = { field, until };
  if (goesOn) {
    // Browsers stop a page that changes its address many times a second, as a key that is held down would.
    pending = address;
    if (!held) write();
    return;
  }
  remember();
  const place = places.get(here);
  here = fresh();
  history.pushState({ id: here }, "", address);
  if (field && place) places.set(here, place); // one stays where one is
}

function write() {
  if (pending) history.replaceState(history.state, "", pending);
  pending = "";
}

function remember() {
  if (!settled()) return;
  const open = Array.from(main.querySelectorAll("details"), (each) => each.open);
  places.set(here, { y: scrollY, open, spot: spot(main) });
}

/** Bring the page that is shown to where it was left; a new one to its beginning. When it is loaded, focus is not taken. */
export function restore(first) {
  const place = places.get(here);
  const details = [...main.querySelectorAll("details")];
  if (place?.open.length === details.length) details.forEach((each, i) => (each.open = place.open[i]));
  if (!first) {
    const left = place?.spot ? main.querySelector(place.spot) : null;
    const heading = main.querySelector("h1");
    heading?.setAttribute("tabindex", "-1");
    (left ?? heading)?.focus({ preventScroll: true });
  }
  if (!first || place) scrollTo(0, place?.y ?? 0);
}
