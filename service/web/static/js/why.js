// The panel "Why?": a suspicious spot beside the nearest normal one, and what adds up to its value.
// templates/_why.html has its parts.

import {call} from "./api.js";
import {fill, locale} from "./texts.js";

const OPEN = "plumbline-why";
const SVG = "http://www.w3.org/2000/svg";
const BAR_WIDTH = 100;
const HOPELESS = new Set(["no_explanation", "gone"]); // no other spot can be explained either
const texts = JSON.parse(document.getElementById("why-texts").textContent);
const score = new Intl.NumberFormat(locale(), {maximumSignificantDigits: 3});
const percent = new Intl.NumberFormat(locale(), {style: "percent"});
const pixel = new Intl.NumberFormat(locale(), {maximumFractionDigits: 0});
const day = new Intl.DateTimeFormat(locale(), {dateStyle: "medium", timeZone: "UTC"});

const text = (name, values) => fill(texts[name], values);

function make(name, values = {}, ...children) {
  const element = document.createElement(name);
  Object.assign(element, values);
  element.append(...children);
  return element;
}

function draw(name, attributes, ...children) {
  const element = document.createElementNS(SVG, name);
  Object.entries(attributes).forEach(([key, value]) => element.setAttribute(key, value));
  element.append(...children);
  return element;
}

/** Return the name of a source in words. */
function sourceName(source) {
  const [, kind, stride] = /^(reverse|forward|level|st|fs1|fs2)_(\d+)$/.exec(source) ?? [];
  return kind ? text(kind, {stride}) : texts.sources[source] ?? source;
}

/** Return a patch as a figure, with the outline of its cell. */
function patchFigure({image, cell: [left, top, width, height]}, label, ...caption) {
  const box = {x: left * image.width, y: top * image.height, width: width * image.width, height: height * image.height};
  const outline = {...box, "vector-effect": "non-scaling-stroke"};
  const svg = draw(
    "svg", {viewBox: `0 0 ${image.width} ${image.height}`, role: "img", "aria-label": label},
    draw("image", {href: `data:${image.media_type};base64,${image.data}`, width: image.width, height: image.height}),
    draw("rect", {...outline, class: "halo"}), draw("rect", outline),
  );
  return make("figure", {}, svg, make("figcaption", {}, ...caption));
}

const line = (...parts) => make("span", {textContent: parts.filter(Boolean).join(" · ")});

function originOf({image, distance}) {
  if (!image) {
    return [line(text("distance", {distance: score.format(distance)}))];
  }
  const [left, top, width, height] = image.cell;
  const place = text("place", {x: pixel.format(left + width / 2), y: pixel.format(top + height / 2)});
  const date = image.captured_on && day.format(new Date(`${image.captured_on}T00:00Z`));
  const taken = date ? text(image.dated_by === "name" ? "taken_by_name" : "taken", {date}) : text("no_date");
  return [
    make("span", {className: "why-name", textContent: image.name, title: `SHA-256 ${image.sha256}`}),
    line(taken, place),
    line(text("distance", {distance: score.format(distance)}), image.augmented && texts.augmented),
  ];
}

class WhyPanel {
  #panel;
  #inspection;
  #viewers;
  #stop;
  #loading = null;
  #mark = null;
  #why = null;

  /**
   * @param {HTMLElement} panel An empty element.
   * @param inspection The inspection, as the API returns it.
   * @param {HTMLElement[]} viewers The viewers that show it; a click on them chooses a spot.
   * @param {AbortSignal} signal Ends the panel.
   */
  constructor(panel, inspection, viewers, signal) {
    this.#panel = panel;
    this.#inspection = inspection;
    this.#viewers = viewers;
    this.#stop = signal;
    panel.replaceChildren(document.getElementById("why-parts").content.cloneNode(true));
    panel.hidden = false;
    this.#part("regions").append(...inspection.regions.map(({peak_xy: [x, y]}, index) => {
      const button = make("button", {type: "button", textContent: text("region", {number: index + 1})});
      button.addEventListener("click", () => this.#load({x, y}));
      return button;
    }));
    this.#toggle.addEventListener("click", () => this.#open(this.#body.hidden));
    panel.querySelector("[data-why-spot]").addEventListener("click", () => this.#load());
    panel.querySelectorAll("[data-why-move]").forEach((button) =>
      button.addEventListener("click", () => this.#move(...button.dataset.whyMove.split(" ").map(Number))));
    viewers.forEach((viewer) => viewer.addEventListener("plumbline:tap", ({detail}) => this.#tapped(detail), {signal}));
    signal.addEventListener("abort", () => this.#loading?.abort());
    if (sessionStorage.getItem(OPEN) === "open") {
      this.#open(true);
    }
  }

  get #toggle() {
    return this.#panel.querySelector(".why-toggle");
  }

  get #body() {
    return this.#panel.querySelector(".why-body");
  }

  #part(name) {
    return this.#panel.querySelector(`[data-why=${name}]`);
  }

  #open(isOpen) {
    this.#body.hidden = !isOpen;
    this.#toggle.setAttribute("aria-expanded", isOpen);
    sessionStorage.setItem(OPEN, isOpen ? "open" : "closed");
    if (!isOpen) {
      this.#loading?.abort();
      this.#outline(null);
    } else if (this.#why) {
      this.#outline(this.#why.cell);
    } else {
      this.#load();
    }
  }

  #tapped({x, y}) {
    const {width, height} = this.#inspection.image;
    if (!this.#body.hidden && x >= 0 && y >= 0 && x < width && y < height) {
      this.#load({x: Math.floor(x), y: Math.floor(y)});
    }
  }

  /** Explain the cell beside the one that is shown. */
  #move(columns, rows) {
    const {box: [left, top, width, height]} = this.#why.cell;
    const limit = (value, size) => Math.min(size - 1, Math.max(0, Math.floor(value)));
    const {image} = this.#inspection;
    this.#load({
      x: limit(left + width * (columns + 0.5), image.width), y: limit(top + height * (rows + 0.5), image.height),
    });
  }

  async #load(spot) {
    this.#loading?.abort();
    this.#loading = new AbortController();
    const {signal} = this.#loading;
    this.#say(texts.loading);
    const query = spot ? `?${new URLSearchParams(spot)}` : "";
    try {
      const why = await call("GET", `/v1/inspections/${this.#inspection.id}/why${query}`, {signal});
      if (!signal.aborted) {
        this.#show(why);
      }
    } catch (error) {
      if (!signal.aborted) {
        this.#fail(error);
      }
    }
  }

  #say(message) {
    this.#part("state").textContent = message;
  }

  #fail(error) {
    const known = {"no-explanation": "no_explanation", "artefact-gone": "gone", "explanation-differs": "differs"};
    const name = known[error.type?.split("#")[1]];
    this.#part("found").hidden = true;
    this.#part("moves").hidden = true;
    this.#part("spots").hidden = HOPELESS.has(name);
    this.#outline(null);
    this.#say(name ? texts[name] : error.message);
  }

  #show(why) {
    this.#why = why;
    const {cell, nearest} = why;
    const [left, top, width, height] = cell.box;
    const at = {x: pixel.format(left + width / 2), y: pixel.format(top + height / 2)};
    const value = text("value", {value: score.format(cell.value), fail: score.format(why.fail_threshold), ...at});
    this.#say("");
    this.#part("value").textContent = cell.is_peak ? `${value} ${texts.peak}` : value;
    const spot = patchFigure(why.spot, text("spot_of", at), make("strong", {textContent: texts.spot}));
    this.#part("patches").replaceChildren(spot, ...nearest.map((one) => this.#nearest(one, nearest.length > 1)));
    this.#part("contributions").replaceChildren(...why.contributions.map((one) => this.#contribution(one)));
    const isKnown = nearest.some(({image}) => image);
    const missing = isKnown ? "" : nearest.length ? texts.no_origins : texts.no_bank;
    this.#part("missing").textContent = missing;
    this.#part("missing").hidden = !missing;
    this.#part("found").hidden = false;
    this.#part("moves").hidden = false;
    this.#part("spots").hidden = false;
    this.#outline(cell);
  }

  #nearest(one, isOneOfSeveral) {
    const source = sourceName(one.bank);
    const title = isOneOfSeveral ? text("nearest_in", {source}) : texts.nearest;
    const caption = [make("strong", {textContent: title}), ...originOf(one)];
    if (!one.patch) {
      caption.splice(1, 0, ...(one.image ? [line(texts.no_patch)] : []));
      return make("figure", {}, make("figcaption", {}, ...caption));
    }
    return patchFigure(one.patch, text("patch_of", {name: one.image.name}), ...caption);
  }

  #contribution({source, value, share}) {
    const bar = draw(
      "svg", {viewBox: `0 0 ${BAR_WIDTH} 10`, preserveAspectRatio: "none", "aria-hidden": "true"},
      draw("rect", {width: BAR_WIDTH, height: 10, class: "rail"}), draw("rect", {width: share * BAR_WIDTH, height: 10}),
    );
    return make(
      "tr", {}, make("th", {scope: "row", textContent: sourceName(source)}), make("td", {className: "why-bar"}, bar),
      make("td", {className: "number", textContent: percent.format(share)}),
      make("td", {className: "number", textContent: score.format(value)}),
    );
  }

  /** Outline the cell in the viewers. */
  #outline(cell) {
    const old = this.#mark;
    const [left, top, width, height] = cell?.box ?? [];
    const [right, bottom] = [left + width, top + height];
    this.#mark = cell && {polygon: [[left, top], [right, top], [right, bottom], [left, bottom]]};
    for (const viewer of this.#viewers) {
      viewer.regions = [...viewer.regions.filter((region) => region !== old), ...(this.#mark ? [this.#mark] : [])];
    }
  }
}

let shown = null;

function show(panel, inspection, viewers) {
  shown?.abort();
  shown = new AbortController();
  if (inspection.decision !== "invalid" && !inspection.artefacts_removed_at) {
    new WhyPanel(panel, inspection, viewers, shown.signal);
  }
}

document.querySelector("plumbline-review")?.addEventListener("plumbline:card", ({target, detail}) => {
  show(detail.why, detail.inspection, [...target.querySelectorAll("plumbline-viewer")]);
});

const panel = document.getElementById("why");
if (panel) {
  const inspection = JSON.parse(document.getElementById("why-inspection").textContent);
  customElements.whenDefined("plumbline-viewer").then(() =>
    show(panel, inspection, [...document.querySelectorAll("plumbline-viewer")]));
}
