// The card of the review page: the facts of an inspection and its images.

import "./viewer.js";
import {placesOf} from "./score-scale.js";
import {locale} from "./texts.js";
import {clearViewer, showInspection} from "./viewer-show.js";

const SCALE_WIDTH = 300;

export class Card {
  #page;
  #texts = JSON.parse(document.getElementById("review-texts").textContent);
  #narrow = matchMedia("(max-width: 40rem)");
  #maxSide;
  #inspection = null;
  #images = null;
  #format;
  /** Whether the images of the card are on the screen. */
  isShown = false;
  /** The part of the card, for messages. */
  name = "";

  constructor(page, maxSide) {
    this.#page = page;
    this.#maxSide = maxSide;
    const zone = {timeZone: page.dataset.zone};
    this.#format = {
      score: new Intl.NumberFormat(locale(), {maximumSignificantDigits: 4}),
      time: new Intl.DateTimeFormat(locale(), {dateStyle: "medium", timeStyle: "medium", ...zone}),
    };
    this.#narrow.addEventListener("change", () => this.#inspection && this.#showImages());
    for (const viewer of this.#viewers) {
      viewer.addEventListener("plumbline:ready", () => this.#imageShown());
      viewer.addEventListener("plumbline:failed", () => this.#imageShown());
    }
  }

  /**
   * Show a card.
   * @param card Card of the queue.
   * @param entry What the queue loads for it.
   * @param {() => boolean} isOld Whether another card is shown by now.
   */
  async show(card, entry, isOld) {
    this.isShown = false;
    delete this.#page.dataset.shown;
    this.#images = entry.images; // keeps them decoded until the viewers show them
    let inspection = entry.found;
    if (!inspection) {
      this.clear();
      try {
        inspection = await entry.inspection;
      } catch {
        inspection = null; // the viewer states that the image is missing; the reviewer can skip
      }
      if (isOld()) {
        return;
      }
    }
    this.#inspection = inspection;
    if (!inspection) {
      this.name = card.id;
      this.#page.dataset.shown = card.id;
      this.#part("facts").hidden = true;
      this.#part("gone").hidden = false;
      return;
    }
    this.#showFacts(inspection, card.reasons);
    this.#showImages();
  }

  clear() {
    this.#inspection = null;
    this.isShown = false;
    delete this.#page.dataset.shown;
    this.#viewers.forEach(clearViewer);
    this.#part("facts").hidden = true;
    this.#part("gone").hidden = true;
  }

  /** Whether the viewers use keys wherever the focus is. */
  useKeys(isOn) {
    this.#viewers.forEach((viewer) => viewer.toggleAttribute("page-keys", isOn));
  }

  get #viewers() {
    return [this.#part("image"), this.#part("heatmap")];
  }

  #part(name) {
    return this.#page.querySelector(`[data-part=${name}]`);
  }

  #showImages() {
    const [image, heatmap] = this.#viewers;
    const isNarrow = this.#narrow.matches;
    heatmap.hidden = isNarrow;
    image.setAttribute("controls", isNarrow ? "zoom blend" : "none");
    image.setAttribute("blend", isNarrow ? 0.6 : 0);
    showInspection(image, this.#inspection, {regions: isNarrow, maxSide: this.#maxSide});
    if (isNarrow) {
      clearViewer(heatmap);
    } else {
      showInspection(heatmap, this.#inspection, {maxSide: this.#maxSide});
    }
    this.#imageShown();
  }

  #imageShown() {
    const isDone = this.#viewers.every((viewer) => viewer.hidden || ["ready", "failed"].includes(viewer.dataset.state));
    if (this.#inspection && isDone && this.#page.dataset.shown !== this.#inspection.id) {
      this.isShown = true;
      this.#page.dataset.shown = this.#inspection.id;
    }
  }

  #showFacts(inspection, reasons) {
    this.#part("gone").hidden = true;
    this.#part("facts").hidden = false;
    for (const chip of this.#page.querySelectorAll("[data-decision]")) {
      chip.hidden = chip.dataset.decision !== inspection.decision;
    }
    this.#part("reasons").textContent = reasons.map((reason) => this.#texts[`reason_${reason}`]).join(" ");
    const created = this.#format.time.format(new Date(inspection.created_at));
    const facts = {part: inspection.part_id, station: inspection.station, lot: inspection.lot, time: created};
    for (const [name, value] of Object.entries(facts)) {
      this.#part(name).textContent = value ?? "–";
    }
    this.name = inspection.part_id ?? created;
    this.#showScore(inspection);
    this.#viewers.forEach((viewer, index) =>
      viewer.setAttribute("label", this.#texts[index ? "heatmap_of" : "image_of"].replace("{name}", this.name)));
    const why = this.#part("why");
    why.hidden = true;
    why.replaceChildren();
    this.#page.dispatchEvent(new CustomEvent("plumbline:card", {detail: {inspection, why}}));
  }

  #showScore(inspection) {
    const {score, thresholds: {review, fail}} = inspection;
    const places = placesOf(inspection);
    const at = Object.fromEntries(Object.entries(places).map(([name, place]) => [name, SCALE_WIDTH * place]));
    this.#part("score-marker").setAttribute("transform", `translate(${at.score} 0)`);
    for (const name of ["review", "fail"]) {
      this.#part(`tick-${name}`).setAttribute("transform", `translate(${at[name]} 0)`);
    }
    this.#part("zone-review").setAttribute("x", at.review);
    this.#part("zone-review").setAttribute("width", at.fail - at.review);
    this.#part("zone-fail").setAttribute("x", at.fail);
    this.#part("zone-fail").setAttribute("width", SCALE_WIDTH - at.fail);
    const shown = (value) => (value === null ? "–" : this.#format.score.format(value));
    this.#part("score").textContent = shown(score);
    this.#part("thresholds").textContent = this.#texts.thresholds
      .replace("{review}", shown(review)).replace("{fail}", shown(fail));
  }
}
