// Zooming and moving charts with mouse, pen and fingers.

const LEAST_DRAG = 5;

/** @param {any} plot @param {import("./view.js").View} view @param {HTMLElement} selection */
export function followPointer(plot, view, selection) {
  const { over } = plot;
  /** @type {Map<number, number>} pointers that are down, and where */
  const down = new Map();
  let drag = null;
  const share = (clientX) => {
    const box = over.getBoundingClientRect();
    return Math.max(0, Math.min(1, (clientX - box.left) / box.width));
  };
  const at = (clientX, [from, to] = view.window) => from + share(clientX) * (to - from);

  // Nothing is selected by dragging: selected text would be dragged away by the next time.
  over.addEventListener("mousedown", (event) => {
    event.preventDefault();
    over.closest(".chart-card").focus({ preventScroll: true });
  });
  over.addEventListener("pointerdown", (event) => {
    if (event.button > 1) return;
    down.set(event.pointerId, event.clientX);
    // A second finger: what is between the two stays between them.
    if (down.size === 2) {
      const [a, b] = [...down.values()];
      drag = { pinch: [at(a), at(b)] };
      selection.hidden = true;
      return;
    }
    const pan = view.tool === "pan" || event.shiftKey || event.button === 1 || event.pointerType === "touch";
    // Fingers that draw along a chart of which all is seen scroll the page.
    if (event.pointerType === "touch" && view.range === null) return;
    over.setPointerCapture(event.pointerId);
    drag = { pan, from: event.clientX, window: view.window };
    if (event.button === 1) event.preventDefault();
  });
  over.addEventListener("pointermove", (event) => {
    if (down.has(event.pointerId)) down.set(event.pointerId, event.clientX);
    if (drag?.pinch && down.size === 2) {
      const [a, b] = [...down.values()].map(share);
      const [left, right] = drag.pinch;
      if (Math.abs(b - a) < 0.02) return;
      const wide = (right - left) / (b - a);
      view.zoom([left - a * wide, left - a * wide + wide]);
      return;
    }
    if (drag?.pan) {
      const [from, to] = drag.window;
      const moved = ((event.clientX - drag.from) / over.clientWidth) * (to - from);
      view.zoom([from - moved, to - moved], true);
    } else if (drag) {
      const [a, b] = [share(drag.from), share(event.clientX)].sort((x, y) => x - y);
      selection.hidden = Math.abs(event.clientX - drag.from) < LEAST_DRAG;
      selection.style.left = `${100 * a}%`;
      selection.style.width = `${100 * (b - a)}%`;
    }
    view.point(at(event.clientX));
  });
  const up = (event) => {
    down.delete(event.pointerId);
    if (drag && !drag.pinch && !drag.pan && event.type === "pointerup" && Math.abs(event.clientX - drag.from) >= LEAST_DRAG) {
      view.zoom([at(drag.from), at(event.clientX)].sort((a, b) => a - b));
    }
    if (down.size === 0) drag = null;
    selection.hidden = true;
  };
  over.addEventListener("pointerup", up);
  over.addEventListener("pointercancel", up);
  over.addEventListener("pointerleave", () => !drag && view.point(null));
  over.addEventListener("dblclick", () => view.zoom(null));
  over.addEventListener("wheel", (event) => {
    const across = event.shiftKey && !event.deltaX ? event.deltaY : event.deltaX;
    const [from, to] = view.window;
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      const [here, factor] = [at(event.clientX), Math.exp(Math.max(-1, Math.min(1, event.deltaY / 200)))];
      view.zoom([here - (here - from) * factor, here + (to - here) * factor]);
    } else if (view.range !== null && Math.abs(across) > Math.abs(event.shiftKey ? 0 : event.deltaY)) {
      event.preventDefault();
      const moved = (across / over.clientWidth) * (to - from);
      view.zoom([from + moved, to + moved], true);
    }
  }, { passive: false });
}

/** Keys of a chart that has the focus. @param {KeyboardEvent} event @param {import("./view.js").View} view */
export function onChartKey(event, view) {
  if (event.ctrlKey || event.metaKey || event.altKey) return false;
  const [from, to] = view.window;
  const wide = to - from;
  const middle = view.hover ?? (from + to) / 2;
  const steps = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (steps && event.shiftKey) view.zoom([from + steps * wide * 0.1, to + steps * wide * 0.1], true);
  else if (steps) view.point(Math.max(from, Math.min(to, (view.hover ?? (steps > 0 ? from - wide * 0.01 : to + wide * 0.01)) + steps * wide * 0.01)));
  else if (event.key === "Home") view.point(from);
  else if (event.key === "End") view.point(to);
  else if (event.key === "+" || event.key === "=") view.zoom([middle - (middle - from) / 2, middle + (to - middle) / 2]);
  else if (event.key === "-") view.zoom([middle - (middle - from) * 2, middle + (to - middle) * 2]);
  else if (event.key === "0") view.zoom(null);
  else if (event.key === "Escape") view.point(null);
  else return false;
  return true;
}
