// Mouse, fingers and wheel on a canvas that shows a view of something larger.
//
//     listen(canvas, view);
//     // view: hover(x, y)   tap(x, y, touch)   pan(dx, dy)   zoom(factor, x, y)   whole: nothing to zoom out of

const STILL = 4;

export function listen(canvas, view) {
  const pointers = new Map();
  let dragged = false;
  let from = null;
  const where = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("pointerdown", (event) => {
    from = where(event);
    pointers.set(event.pointerId, from);
    dragged = pointers.size > 1;
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = where(event);
    const last = pointers.get(event.pointerId);
    if (!last) {
      if (event.pointerType !== "touch") view.hover(x, y);
      return;
    }
    const others = [...pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    pointers.set(event.pointerId, [x, y]);
    if (others.length === 1) {
      const [ox, oy] = others[0];
      view.zoom(Math.hypot(x - ox, y - oy) / Math.max(Math.hypot(last[0] - ox, last[1] - oy), 1), ox, oy);
    } else if (dragged || Math.hypot(x - from[0], y - from[1]) > STILL) {
      dragged = true;
      view.pan(x - last[0], y - last[1]);
    }
  });
  canvas.addEventListener("pointerup", (event) => {
    pointers.delete(event.pointerId);
    if (!dragged) view.tap(...where(event), event.pointerType === "touch");
  });
  for (const name of ["pointercancel", "lostpointercapture"]) {
    canvas.addEventListener(name, (event) => pointers.delete(event.pointerId));
  }
  canvas.addEventListener(
    "wheel",
    (event) => {
      if (event.deltaY > 0 && view.whole) return; // the page scrolls on
      event.preventDefault();
      view.zoom(Math.exp(-event.deltaY / 300), ...where(event));
    },
    { passive: false },
  );
}
