// <plumbline-viewer>: an image with its heatmap as a layer, regions, zoom and pan, and polygons that can be edited.
// templates/_viewer.html documents attributes, properties and events, and makes the element with its texts.

import {pathOf} from "./geometry.js";
import {fill, locale} from "./texts.js";
import {addKeys, listen, removeKeys} from "./viewer-input.js";
import {Layers} from "./viewer-layers.js";
import {PARTS, sheet} from "./viewer-style.js";
import {View} from "./viewer-view.js";

const DEFAULT_BLEND = 0.6; // the opacity with which the service draws heatmaps
const SHARP_FROM = 2;
const SLOW_MS = 150;
const ANNOUNCE_MS = 400;
const HANDLE_PX = 16;
const GROUPS = new Map();
const BUTTONS = {in: "zoom_in", out: "zoom_out", fit: "fit"};

function shadowOf(element) {
  const root = element.attachShadow({mode: "open"});
  root.adoptedStyleSheets = [sheet];
  root.innerHTML = PARTS;
  return root;
}

export class PlumblineViewer extends HTMLElement {
  static observedAttributes = [
    "src", "overlay", "zoom-src", "zoom-overlay", "full-width", "full-height", "blend", "label", "controls", "editable",
  ];

  #root = shadowOf(this);
  #layers = new Layers(this.#find(".stage"), (name, hasFailed) => this.#layerChanged(name, hasFailed));
  #view = new View();
  #stop = null;
  #frame = 0;
  #timers = {};
  #group = null;
  #isHeld = false;
  #regions = null;
  #polygons = null;
  #editor = null;
  #labels = null;

  connectedCallback() {
    for (const name of ["blend", "regions", "polygons", "area"]) {
      if (Object.hasOwn(this, name)) { // set before the element was defined
        const value = this[name];
        delete this[name];
        this[name] = value;
      }
    }
    this.#stop = new AbortController();
    const {signal} = this.#stop;
    const view = this.#find(".view");
    listen(this, view, signal);
    addKeys(this);
    this.#find(".bar").addEventListener("click", (event) => this.#press(event.target.closest("button")?.dataset.do), {signal});
    this.#find("input").addEventListener("input", (event) => (this.blend = event.target.value / 100), {signal});
    const observer = new ResizeObserver(([entry]) => {
      this.#view.size = {width: entry.contentRect.width, height: entry.contentRect.height};
      this.#draw();
    });
    observer.observe(view);
    signal.addEventListener("abort", () => observer.disconnect());
    this.#group = this.getAttribute("group");
    if (this.#group) {
      GROUPS.set(this.#group, (GROUPS.get(this.#group) ?? new Set()).add(this));
    }
    this.#translate();
    this.#regions ??= this.#json("regions");
    this.#update();
    this.#load("image", this.getAttribute("src"));
    this.#load("overlay", this.getAttribute("overlay"));
    this.#edit();
  }

  disconnectedCallback() {
    this.#stop?.abort();
    removeKeys(this);
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    Object.values(this.#timers).forEach(clearTimeout);
    const group = GROUPS.get(this.#group);
    group?.delete(this);
    if (group?.size === 0) {
      GROUPS.delete(this.#group);
    }
    this.#layers.close();
    this.#polygons = this.#editor?.area ?? this.#polygons;
    this.#editor?.close();
    this.#editor = null;
  }

  attributeChangedCallback(name, before, now) {
    if (!this.isConnected || !this.#stop || this.#stop.signal.aborted || before === now) {
      return;
    }
    if (name === "src" || name === "overlay") {
      this.#load(name === "src" ? "image" : name, now);
    } else if (name === "editable") {
      this.#edit();
    } else {
      this.#update();
    }
  }

  /** Size of the original image in pixels; coordinates of regions and polygons refer to it. */
  get imageSize() {
    const image = this.#layers.image;
    const width = Number(this.getAttribute("full-width")) || image?.naturalWidth || 1;
    const height = Number(this.getAttribute("full-height")) || image?.naturalHeight || 1;
    return {width, height};
  }

  get blend() {
    const value = this.getAttribute("blend");
    return value === null || Number.isNaN(Number(value)) ? DEFAULT_BLEND : Math.min(1, Math.max(0, Number(value)));
  }

  set blend(value) {
    this.setAttribute("blend", value);
  }

  get regions() {
    return this.#regions ?? [];
  }

  set regions(value) {
    this.#regions = value ?? [];
    this.#update();
  }

  get area() {
    return this.#editor?.area ?? this.#polygons ?? {roi: [], ignore: []};
  }

  set area(value) {
    this.#polygons = {roi: value?.roi ?? [], ignore: value?.ignore ?? []};
    this.#editor?.load(this.#polygons);
  }

  get polygons() {
    const {roi, ignore} = this.area;
    return {roi: roi[0] ?? null, ignore};
  }

  set polygons(value) {
    const roi = value?.roi ?? [];
    this.area = {roi: typeof roi[0]?.[0] === "number" ? [roi] : roi, ignore: value?.ignore};
  }

  get view() {
    const {zoom, x, y} = this.#view;
    return {zoom, x, y};
  }

  /** Show a part of the image: the zoom (1 shows all of it) and the centre as a share of width and height. */
  set view(value) {
    this.#setView(value, true);
  }

  /** Multiply the zoom; the point of the view that is given stays where it is. Return whether the key had a use. */
  zoomBy(factor, at = this.#view.middle) {
    const before = this.#view.zoom;
    const next = this.#view.zoomed(factor, at);
    if (Math.abs(next.zoom / before - 1) > 1e-6) {
      this.#setView(next, true);
    }
    return before > 1 || next.zoom > 1;
  }

  /** Move the view by pixels of the page. Return whether the image is larger than the view. */
  panBy(dx, dy) {
    const isLarger = this.#view.zoom > 1;
    if (isLarger) {
      this.#setView(this.#view.panned(dx, dy), true);
    }
    return isLarger;
  }

  /** Move the view by a share of its size. */
  panByShare(dx, dy) {
    return this.panBy(dx * this.#view.size.width, dy * this.#view.size.height);
  }

  /** Show the whole image. */
  fit() {
    this.#setView({zoom: 1, x: 0.5, y: 0.5}, true);
  }

  /** Zoom in at a point of the view; zoom out if the view is zoomed in. */
  toggleZoom(at) {
    if (this.#editor?.isDrawing) {
      return;
    }
    if (this.#view.zoom > 1) {
      this.fit();
    } else {
      this.zoomBy(Math.max(4, 1 / this.#view.fitScale), at);
    }
  }

  /** Begin or end the comparison: hide the heatmap while a key is held, or show it if its opacity is 0. */
  hold(isHeld) {
    if (this.#isHeld !== isHeld) {
      this.#isHeld = isHeld;
      this.#update();
    }
  }

  /** A short touch or click on the image, at a point of the view. */
  tap(x, y) {
    const at = this.#view.toImage(x, y);
    this.#editor?.tap(at);
    this.dispatchEvent(new CustomEvent("plumbline:tap", {bubbles: true, detail: {x: at[0], y: at[1]}}));
  }

  #find(selector) {
    return this.#root.querySelector(selector);
  }

  #json(name) {
    const script = this.querySelector(`:scope > script.${name}`);
    return script ? JSON.parse(script.textContent) : null;
  }

  #setView(value, isLeading) {
    this.#view.image = this.imageSize;
    this.#view.set(value);
    this.#draw();
    if (isLeading) {
      GROUPS.get(this.#group)?.forEach((other) => other !== this && other.#setView(this.#view, false));
      this.#later("announce", ANNOUNCE_MS, () => {
        this.#find("[role=status]").textContent = this.label("zoom_level", {percent: this.#percent()});
      });
      this.dispatchEvent(new CustomEvent("plumbline:view", {bubbles: true, detail: this.view}));
    }
  }

  #percent() {
    return new Intl.NumberFormat(locale(), {style: "percent"}).format(this.#view.zoom);
  }

  /** Return a text of the element, with values for placeholders such as {percent}. */
  label(name, values = {}) {
    return fill(this.#labels?.[name] ?? name, values);
  }

  #translate() {
    const shared = document.getElementById("viewer-labels");
    this.#labels = this.#json("labels") ?? (shared ? JSON.parse(shared.textContent) : {});
    this.#find("#help").textContent = this.label("help");
    this.#find(".bar").setAttribute("aria-label", this.label("controls"));
    this.#find(".blend").textContent = this.label("blend");
    for (const [name, text] of Object.entries(BUTTONS)) {
      const button = this.#find(`[data-do=${name}]`);
      button.setAttribute("aria-label", this.label(text));
      button.title = this.label(text);
    }
  }

  #press(action) {
    ({in: () => this.zoomBy(1.5), out: () => this.zoomBy(1 / 1.5), fit: () => this.fit()})[action]?.();
  }

  /** Apply attributes, regions and the state of the keys. */
  #update() {
    const {width, height} = this.imageSize;
    const view = this.#find(".view");
    view.style.aspectRatio = `${width} / ${height}`;
    view.setAttribute("aria-label", this.getAttribute("label") ?? this.label("image"));
    const controls = (this.getAttribute("controls") ?? "zoom").split(" ");
    this.#find(".bar").hidden = controls.includes("none");
    this.#find(".bar label").hidden = !controls.includes("blend");
    this.#find("input").value = Math.round(this.blend * 100);
    const overlay = this.#layers.overlay;
    if (overlay) {
      overlay.style.opacity = this.#isHeld ? Number(this.blend === 0) : this.blend;
    }
    const path = pathOf(this.regions.map((region) => region.polygon));
    this.#root.querySelectorAll(".view > svg > g:first-child > path").forEach((line) => line.setAttribute("d", path));
    this.#draw();
  }

  #draw() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#place();
    });
  }

  #place() {
    const view = this.#view;
    view.image = this.imageSize;
    if (!view.size.width) {
      return;
    }
    view.clamp();
    const {width, height} = view.image;
    const {scale} = view;
    const [left, top] = view.corner;
    const stage = this.#find(".stage");
    stage.style.width = `${width}px`;
    stage.style.height = `${height}px`;
    stage.style.transform = `translate(${left}px, ${top}px) scale(${scale})`;
    const shown = this.#layers.image?.naturalWidth ?? Infinity;
    stage.classList.toggle("sharp", (scale * width) / shown >= SHARP_FROM);
    this.#find(".view > svg").setAttribute(
      "viewBox", [-left / scale, -top / scale, view.size.width / scale, view.size.height / scale].join(" "),
    );
    this.#find(".view").classList.toggle("zoomed", view.zoom > 1);
    this.#find(".bar > span").textContent = this.#percent();
    this.#editor?.place();
    if (shown < width && scale * width * devicePixelRatio > shown) {
      this.#layers.refine("image", this.getAttribute("zoom-src"));
      this.#layers.refine("overlay", this.getAttribute("zoom-overlay"));
    }
  }

  #load(name, url) {
    this.#layers.load(name, url);
    if (name === "image") {
      this.#view.set({zoom: 1, x: 0.5, y: 0.5});
      this.#find(".note").hidden = true;
    }
    this.#setState();
    this.#later("slow", SLOW_MS, () => this.dataset.state === "loading" && this.#note("loading"));
  }

  #layerChanged(name, hasFailed) {
    if (hasFailed) {
      this.#note(name === "image" ? "failed" : "overlay_failed", name === "overlay");
    }
    this.#update();
    this.#setState();
  }

  #setState() {
    const {state} = this.#layers;
    if (state === this.dataset.state) {
      return;
    }
    this.dataset.state = state;
    if (state === "ready" || state === "failed") {
      if (this.#find(".note").textContent === this.label("loading")) {
        this.#find(".note").hidden = true;
      }
      this.#place();
      this.dispatchEvent(new CustomEvent(`plumbline:${state}`, {bubbles: true}));
    }
  }

  #note(label, isLow = false) {
    const note = this.#find(".note");
    note.textContent = this.label(label);
    note.classList.toggle("low", isLow);
    note.hidden = false;
  }

  #later(name, delay, run) {
    clearTimeout(this.#timers[name]);
    this.#timers[name] = setTimeout(run, delay);
  }

  async #edit() {
    const isEditable = this.hasAttribute("editable");
    this.classList.toggle("editing", isEditable);
    this.#view.padding = isEditable ? HANDLE_PX : 0;
    this.#draw();
    if (!isEditable) {
      this.#polygons = this.#editor?.area ?? this.#polygons;
      this.#editor?.close();
      this.#editor = null;
      return;
    }
    const {PolygonEditor} = await import("./viewer-editor.js");
    if (this.isConnected && this.hasAttribute("editable") && !this.#editor) {
      this.#polygons ??= this.#json("polygons") ?? {roi: [], ignore: []};
      this.#view.image = this.imageSize;
      this.#editor = new PolygonEditor(this, this.#root, this.#view);
      this.#editor.load(this.#polygons);
    }
  }
}

customElements.define("plumbline-viewer", PlumblineViewer);
