// The queue of one reviewer: read page by page, with the facts and images of the next cards loaded ahead.

import {call} from "./api.js";
import {previewUrl} from "./viewer-show.js";

const PAGE = 100;
const REFILL_BELOW = 25;
const AHEAD = 4;

export class Queue {
  #product;
  #maxSide;
  #since = null;
  #cards = [];
  #seen = new Set();
  #loaded = new Map();
  #last = null;
  #isAtEnd = false;
  #reading = null;
  /** Number of inspections that are to be reviewed, with those that are not loaded yet. */
  left = 0;

  constructor(product, maxSide) {
    this.#product = product;
    this.#maxSide = maxSide;
  }

  get first() {
    return this.#cards[0] ?? null;
  }

  /** Whether everything was read. */
  get isAtEnd() {
    return this.#isAtEnd;
  }

  /**
   * Read the first page, or the queue from its start after its end was reached: new inspections may have been added.
   * @param {() => string[]} pending Returns the inspections whose review is not stored yet.
   */
  async start(pending) {
    this.#last = null;
    this.#isAtEnd = false;
    await this.#read(pending);
  }

  /** Remove the first card. It does not return, unless it is put back. */
  take() {
    const card = this.#cards.shift();
    this.#loaded.delete(card?.id);
    return card;
  }

  /** Put a card back: as the first one, or as the next one. */
  putBack(card, position = 0) {
    this.drop(card.id);
    this.#cards.splice(position, 0, card);
  }

  /** Remove a card that was reviewed elsewhere, unless it is shown. Return whether there was one. */
  drop(id) {
    const index = this.#cards.findIndex((card) => card.id === id);
    if (index >= 0) {
      this.#cards.splice(index, 1);
      this.#loaded.delete(id);
    }
    return index >= 0;
  }

  /** Show skipped cards again. */
  forget(ids) {
    ids.forEach((id) => this.#seen.delete(id));
  }

  /** Load what the next cards need, and the next page if few are left. */
  async prepare(pending) {
    this.#cards.slice(0, AHEAD + 1).forEach((card) => this.load(card));
    if (this.#cards.length < REFILL_BELOW && !this.#isAtEnd) {
      await this.#read(pending);
      this.#cards.slice(0, AHEAD + 1).forEach((card) => this.load(card));
    }
  }

  /** Return the inspection of a card; its images are being loaded, too. */
  load(card) {
    let entry = this.#loaded.get(card.id);
    if (!entry) {
      const images = ["image", "overlay"].map((layer) => {
        const image = new Image();
        image.src = previewUrl(card.id, layer, this.#maxSide);
        image.decode().catch(() => {});
        return image;
      });
      entry = {images, inspection: call("GET", `/v1/inspections/${card.id}`)};
      entry.inspection.then((found) => (entry.found = found), () => this.#loaded.delete(card.id));
      this.#loaded.set(card.id, entry);
    }
    return entry;
  }

  #read(pending) {
    this.#reading ??= this.#page(pending).finally(() => (this.#reading = null));
    return this.#reading;
  }

  async #page(pending) {
    const query = new URLSearchParams({product: this.#product, limit: PAGE});
    if (this.#since) {
      query.set("since", this.#since); // the sample stays the same
    }
    if (this.#last) {
      query.set("after", this.#last);
    }
    const found = await call("GET", `/v1/reviews:queue?${query}`);
    this.#since = found.since;
    this.#isAtEnd = found.items.length < PAGE;
    this.#last = found.items.at(-1)?.inspection_id ?? this.#last;
    const unsent = new Set(pending());
    this.left = found.total - unsent.size;
    for (const item of found.items) {
      if (!this.#seen.has(item.inspection_id) && !unsent.has(item.inspection_id)) {
        this.#seen.add(item.inspection_id);
        this.#cards.push({id: item.inspection_id, reasons: item.reasons});
      }
    }
  }
}
