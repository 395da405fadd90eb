// Wheel, mouse, touch and keys for <plumbline-viewer>.

const WHEEL_STEP = 1.0015;
const KEY_STEP = 1.5;
const PAN_SHARE = 0.1;
const TAP_PX = 5;
const KEYS = {"+": KEY_STEP, "=": KEY_STEP, "-": 1 / KEY_STEP, "−": 1 / KEY_STEP, _: 1 / KEY_STEP};
const ARROWS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};

/**
 * Listen to wheel and pointers of a viewer's image.
 * @param viewer The element.
 * @param {HTMLElement} view The part that shows the image.
 * @param {AbortSignal} signal Ends listening.
 */
export function listen(viewer, view, signal) {
  const pointers = new Map();
  let start = null;
  const at = (event) => {
    const box = view.getBoundingClientRect();
    return [event.clientX - box.left - view.clientLeft, event.clientY - box.top - view.clientTop];
  };
  const spread = () => {
    const [[x1, y1], [x2, y2]] = [...pointers.values()];
    return {distance: Math.hypot(x1 - x2, y1 - y2), middle: [(x1 + x2) / 2, (y1 + y2) / 2]};
  };
  const on = (type, handle, options = {}) => view.addEventListener(type, handle, {signal, ...options});

  on("wheel", (event) => {
    const pixels = event.deltaY * (event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 33 : 1);
    // Where nothing is left to zoom out, the page scrolls.
    if (viewer.zoomBy(WHEEL_STEP ** -pixels, at(event)) || event.ctrlKey) {
      event.preventDefault();
    }
  }, {passive: false});
  on("pointerdown", (event) => {
    if (event.button !== 0) {
      return;
    }
    pointers.set(event.pointerId, at(event));
    view.setPointerCapture(event.pointerId);
    start = pointers.size === 1 ? at(event) : null;
  });
  on("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) {
      return;
    }
    const now = at(event);
    if (pointers.size === 1) {
      if (start && Math.hypot(now[0] - start[0], now[1] - start[1]) > TAP_PX) {
        start = null;
        view.classList.add("panning");
      }
      if (!start) {
        viewer.panBy(before[0] - now[0], before[1] - now[1]);
      }
      pointers.set(event.pointerId, now);
    } else if (pointers.size === 2) {
      const old = spread();
      pointers.set(event.pointerId, now);
      const next = spread();
      viewer.panBy(old.middle[0] - next.middle[0], old.middle[1] - next.middle[1]);
      viewer.zoomBy(next.distance / Math.max(1, old.distance), next.middle);
    }
  });
  const end = (event) => {
    if (pointers.delete(event.pointerId) && start && event.type === "pointerup") {
      viewer.tap(...start);
    }
    start = null;
    view.classList.toggle("panning", pointers.size > 0);
  };
  on("pointerup", end);
  on("pointercancel", end);
  on("dblclick", (event) => viewer.toggleZoom(at(event)));
}

// The keys of all viewers of the page. A viewer uses them while it has the focus, or always with `page-keys`.
const viewers = new Set();
let listening = null;

/** Let a viewer use keys. */
export function addKeys(viewer) {
  viewers.add(viewer);
  if (!listening) {
    listening = new AbortController();
    const {signal} = listening;
    document.addEventListener("keydown", press, {signal});
    document.addEventListener("keyup", release, {signal});
    window.addEventListener("blur", () => viewers.forEach((viewer) => viewer.hold(false)), {signal});
  }
}

/** Undo `addKeys`. */
export function removeKeys(viewer) {
  viewers.delete(viewer);
  if (!viewers.size) {
    listening?.abort();
    listening = null;
  }
}

/** Return whether a key that is pressed now belongs to a field, such as a letter of a text. */
export function isForField(event) {
  const target = event.composedPath()[0];
  return target instanceof Element && target.closest("input, textarea, select, [contenteditable]") !== null;
}

function concerned(event) {
  const path = event.composedPath();
  const focused = [...viewers].find((viewer) => path.includes(viewer));
  const chosen = focused ? [focused] : [...viewers].filter((viewer) => viewer.hasAttribute("page-keys"));
  return chosen.filter((viewer) => viewer.isConnected && viewer.checkVisibility());
}

function press(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || isForField(event)) {
    return;
  }
  if (event.key === "h" || event.key === "H") {
    const chosen = new Set(concerned(event));
    viewers.forEach((viewer) => (chosen.has(viewer) || viewer.hasAttribute("page-keys")) && viewer.hold(true));
    return;
  }
  // Viewers of a group follow the first one.
  const groups = new Set();
  for (const viewer of concerned(event)) {
    const group = viewer.getAttribute("group") ?? viewer;
    if (!groups.has(group) && move(viewer, event.key)) {
      event.preventDefault();
    }
    groups.add(group);
  }
}

function move(viewer, key) {
  if (KEYS[key]) {
    viewer.zoomBy(KEYS[key]);
    return true;
  }
  if (key === "0") {
    viewer.fit();
    return true;
  }
  const direction = ARROWS[key];
  return direction !== undefined && viewer.panByShare(direction[0] * PAN_SHARE, direction[1] * PAN_SHARE);
}

function release(event) {
  if (event.key === "h" || event.key === "H") {
    viewers.forEach((viewer) => viewer.hold(false));
  }
}
