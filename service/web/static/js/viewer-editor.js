// Editing of polygons in <plumbline-viewer editable>: ROI and ignore polygons, by mouse, touch and keyboard.

import {insideImage, middleAfter, problemsOf, shifted} from "./geometry.js";
import {place, renderBar, renderHandles, renderShapes} from "./viewer-editor-parts.js";

const CLOSE_PX = 14;
const UNDO_STEPS = 50;
const ARROWS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};

export class PolygonEditor {
  #viewer;
  #root;
  #view;
  #stop = new AbortController();
  #shapes = [];
  #chosen = null;
  #point = null;
  #draft = null;
  #undo = [];
  #drag = null;

  constructor(viewer, root, view) {
    this.#viewer = viewer;
    this.#view = view;
    this.#root = root;
    this.#find(".handles").hidden = this.#find(".editor").hidden = false;
    this.#find(".editor").setAttribute("role", "group");
    this.#find(".editor").setAttribute("aria-label", viewer.label("editor"));
    const on = (selector, type, handle) => this.#find(selector).addEventListener(type, handle, this.#stop);
    on(".editor", "click", (event) => this.#press(event.target.closest("button")));
    on(".editor", "keydown", (event) => this.#moveShape(event));
    on(".handles", "pointerdown", (event) => this.#grab(event, event.target.closest("button")));
    on(".polygons", "pointerdown", (event) => this.#grab(event, event.target.closest(".body")));
    on(".handles", "pointermove", (event) => this.#drags(event));
    on(".polygons", "pointermove", (event) => this.#drags(event));
    for (const type of ["pointerup", "pointercancel"]) {
      on(".handles", type, () => this.#drop());
      on(".polygons", type, () => this.#drop());
    }
    on(".handles", "focusin", (event) => this.#focus(event.target));
    on(".handles", "click", (event) => event.detail === 0 && this.#insert(event.target.closest(".between")));
    on(".handles", "keydown", (event) => this.#key(event));
    on(".view", "keydown", (event) => this.#draftKey(event));
  }

  get isDrawing() {
    return this.#draft !== null;
  }

  get area() {
    const rounded = (points) => points.map((point) => point.map((value) => Math.round(value * 10) / 10));
    const of = (kind) => this.#shapes.filter((shape) => shape.kind === kind).map((shape) => rounded(shape.points));
    return {roi: of("roi"), ignore: of("ignore")};
  }

  /** Replace all polygons. */
  load({roi, ignore}) {
    this.#shapes = [
      ...roi.map((points) => ({kind: "roi", points: structuredClone(points)})),
      ...ignore.map((points) => ({kind: "ignore", points: structuredClone(points)})),
    ];
    this.#undo = [];
    this.#choose(this.#shapes.length ? 0 : null);
  }

  close() {
    this.#stop.abort();
    this.#find(".handles").hidden = this.#find(".editor").hidden = true;
    for (const selector of [".handles", ".editor", ".polygons"]) {
      this.#find(selector).replaceChildren();
    }
    this.#find(".view").classList.remove("drawing");
  }

  /** A short touch or click on the image: a new point of the polygon that is being drawn. */
  tap(point) {
    if (!this.#draft) {
      return;
    }
    const [first] = this.#draft.points;
    const isClosing = first && this.#draft.points.length > 2
      && Math.hypot(first[0] - point[0], first[1] - point[1]) * this.#view.scale < CLOSE_PX;
    if (isClosing) {
      this.#finish();
    } else {
      this.#draft.points.push(this.#inside(point));
      this.#render();
    }
  }

  /** Put polygons and handles where the view shows them. */
  place() {
    place(this.#root, this.#view, this.#state, (...text) => this.#label(...text));
  }

  get #state() {
    return {shapes: this.#shapes, chosen: this.#chosen, draft: this.#draft};
  }

  #find(selector) {
    return this.#root.querySelector(selector);
  }

  #label(name, values) {
    return this.#viewer.label(name, values);
  }

  #name(index) {
    const {kind} = this.#shapes[index];
    const number = this.#shapes.slice(0, index + 1).filter((shape) => shape.kind === kind).length;
    const isOnly = kind === "roi" && this.#shapes.filter((shape) => shape.kind === kind).length === 1;
    return isOnly ? this.#label("roi") : `${this.#label(kind)} ${number}`;
  }

  #inside(point) {
    return insideImage(point, this.#viewer.imageSize);
  }

  #render() {
    const state = this.#state;
    const label = (...text) => this.#label(...text);
    this.#find(".view").classList.toggle("drawing", this.#draft !== null);
    renderShapes(this.#find(".polygons"), state);
    const points = this.#draft?.points ?? this.#shapes[this.#chosen]?.points ?? [];
    renderHandles(this.#find(".handles"), points, this.#draft !== null, label);
    const names = this.#shapes.map((_, index) => this.#name(index));
    const facts = {canUndo: this.#undo.length > 0, names, problems: this.#problems()};
    renderBar(this.#find(".editor"), {...state, ...facts}, label);
    this.place();
  }

  // Mouse and touch

  #grab(event, target) {
    if (!target || event.button !== 0 || this.#draft) {
      return;
    }
    event.stopPropagation();
    event.currentTarget.setPointerCapture(event.pointerId);
    const before = JSON.stringify(this.#shapes);
    let index = target.dataset.point === undefined ? null : Number(target.dataset.point);
    if (target.classList.contains("between")) {
      const {points} = this.#shapes[this.#chosen];
      points.splice(index + 1, 0, this.#inside(middleAfter(points, index)));
      index += 1;
      this.#render();
    }
    this.#drag = {index, before, at: [event.clientX, event.clientY]};
  }

  #drags(event) {
    const shape = this.#shapes[this.#chosen];
    if (!this.#drag || !shape) {
      return;
    }
    const {index, at} = this.#drag;
    const step = [(event.clientX - at[0]) / this.#view.scale, (event.clientY - at[1]) / this.#view.scale];
    this.#drag.at = [event.clientX, event.clientY];
    if (index === null) {
      this.#shift(shape, step);
    } else {
      // The exact position, so that a slow movement is not lost by rounding.
      this.#drag.exact = (this.#drag.exact ?? shape.points[index]).map((value, axis) => value + step[axis]);
      shape.points[index] = this.#inside(this.#drag.exact);
    }
    this.place();
  }

  #drop() {
    if (this.#drag) {
      const {index, before} = this.#drag;
      this.#drag = null;
      const isChanged = before !== JSON.stringify(this.#shapes);
      if (isChanged) {
        this.#remember(before);
      }
      this.#render();
      if (index !== null) {
        this.#focusPoint(index);
      }
      if (isChanged) {
        this.#report();
      }
    }
  }

  // Changes

  #remember(before = JSON.stringify(this.#shapes)) {
    this.#undo.push(before);
    this.#undo.splice(0, this.#undo.length - UNDO_STEPS);
  }

  /** Make a change that can be undone. */
  #change(edit) {
    this.#remember();
    edit();
    this.#render();
    this.#report();
  }

  #report() {
    const problems = this.#problems();
    this.#viewer.dispatchEvent(new CustomEvent("plumbline:polygons", {
      bubbles: true,
      detail: {polygons: this.#viewer.polygons, area: this.area, valid: !problems.length, problems},
    }));
  }

  #problems() {
    const {width, height} = this.#viewer.imageSize;
    return this.#shapes.flatMap(({points}, index) =>
      problemsOf(points, width, height).map((problem) => `${this.#name(index)}: ${this.#label(`problem_${problem}`)}`));
  }

  #press(button) {
    const {action, shape} = button?.dataset ?? {};
    if (shape !== undefined) {
      this.#choose(Number(shape));
      this.#find(`.editor [data-shape="${shape}"]`)?.focus();
    }
    ({
      roi: () => this.#draw("roi"),
      ignore: () => this.#draw("ignore"),
      finish: () => this.#finish(),
      cancel: () => this.#cancel(),
      point: () => this.#removePoint(this.#point),
      remove: () => this.#removeShape(),
      undo: () => this.#undoLast(),
    })[action]?.();
  }

  #draw(kind) {
    this.#draft = {kind, points: []};
    this.#chosen = null;
    this.#render();
    this.#find(".view").focus({preventScroll: true});
  }

  /** Complete the polygon that is being drawn. Without any point it is a rectangle in the middle of the view. */
  #finish() {
    const {kind, points} = this.#draft;
    if (!points.length) {
      const {width, height} = this.#view.size;
      const corners = [[0.3, 0.3], [0.7, 0.3], [0.7, 0.7], [0.3, 0.7]];
      points.push(...corners.map(([x, y]) => this.#inside(this.#view.toImage(x * width, y * height))));
    }
    this.#draft = null;
    this.#change(() => {
      const index = kind === "roi" ? 0 : this.#shapes.length;
      this.#shapes.splice(index, 0, {kind, points});
      this.#chosen = index;
    });
    this.#find(".handles button")?.focus({preventScroll: true});
  }

  #cancel() {
    this.#draft = null;
    this.#choose(this.#shapes.length ? 0 : null);
  }

  #removeShape() {
    this.#change(() => {
      this.#shapes.splice(this.#chosen, 1);
      this.#chosen = this.#shapes.length ? Math.min(this.#chosen, this.#shapes.length - 1) : null;
      this.#point = null;
    });
    this.#find(".editor button")?.focus();
  }

  #removePoint(index) {
    const shape = this.#shapes[this.#chosen];
    if (!shape || index === null) {
      return;
    }
    if (shape.points.length === 1) {
      this.#removeShape();
      return;
    }
    this.#change(() => shape.points.splice(index, 1));
    this.#focusPoint(Math.min(index, shape.points.length - 1));
  }

  #insert(handle) {
    if (!handle) {
      return;
    }
    const index = Number(handle.dataset.point);
    const {points} = this.#shapes[this.#chosen];
    this.#change(() => points.splice(index + 1, 0, this.#inside(middleAfter(points, index))));
    this.#focusPoint(index + 1);
  }

  #undoLast() {
    const before = this.#undo.pop();
    if (before) {
      this.#shapes = JSON.parse(before);
      this.#choose(this.#shapes.length ? Math.min(this.#chosen ?? 0, this.#shapes.length - 1) : null);
      this.#report();
    }
  }

  #choose(index) {
    this.#chosen = index;
    this.#point = null;
    this.#render();
  }

  // Keyboard

  #focus(handle) {
    if (!handle.classList.contains("between")) {
      this.#point = Number(handle.dataset.point);
      this.#find("[data-action=point]")?.toggleAttribute("disabled", this.#draft !== null);
    }
  }

  #focusPoint(index) {
    this.#find(`.handles [data-point="${index}"]:not(.between)`)?.focus({preventScroll: true});
  }

  #step(event) {
    const direction = ARROWS[event.key];
    const size = Math.max(1, Math.round(1 / this.#view.scale)) * (event.shiftKey ? 10 : 1);
    return direction && direction.map((sign) => sign * size);
  }

  #key(event) {
    if (this.#isUndo(event) || this.#draft) {
      return;
    }
    const index = Number(event.target.dataset.point);
    const isBetween = event.target.classList.contains("between");
    const step = this.#step(event);
    const {points} = this.#shapes[this.#chosen];
    if (step && !isBetween) {
      this.#change(() => (points[index] = this.#inside([points[index][0] + step[0], points[index][1] + step[1]])));
      this.#focusPoint(index);
    } else if ((event.key === "Delete" || event.key === "Backspace") && !isBetween) {
      this.#removePoint(index);
    } else if ((event.key === "+" || event.key === "Insert") && !isBetween) {
      this.#insert(event.target);
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  /** Move a whole polygon with the arrow keys while its button has the focus. */
  #moveShape(event) {
    const step = this.#step(event);
    const index = Number(event.target.dataset.shape);
    if (this.#isUndo(event) || !step || event.target.dataset.shape === undefined) {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
    this.#chosen = index;
    this.#change(() => this.#shift(this.#shapes[index], step));
    this.#find(`.editor [data-shape="${index}"]`)?.focus();
  }

  #shift(shape, step) {
    shape.points = shifted(shape.points, step, this.#viewer.imageSize);
  }

  #draftKey(event) {
    if (!this.#draft || event.defaultPrevented) {
      return;
    }
    const action = {Enter: () => this.#finish(), Escape: () => this.#cancel(), Backspace: () => this.#removeCorner()}[event.key];
    if (action) {
      event.preventDefault();
      event.stopPropagation();
      action();
    }
  }

  #removeCorner() {
    this.#draft.points.pop();
    this.#render();
  }

  #isUndo(event) {
    const isUndo = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z";
    if (isUndo) {
      event.preventDefault();
      event.stopPropagation();
      this.#undoLast();
    }
    return isUndo;
  }
}
