// The filmstrip of the live page: the latest inspections by decision, with few small images.

const KEPT = 24;
const SHOWN = 12;
const DRAW_MS = 500;
const IMAGES_AT_ONCE = 2;
const DECISIONS = ["pass", "review", "fail", "invalid"];

export class Strip {
  #list;
  #empty;
  #select;
  #kept = new Map(["", ...DECISIONS].map((name) => [name, []]));
  #show = "";
  #frozen = null;
  #selected = null;
  #timer = 0;
  #tiles = new Map();

  /**
   * @param {HTMLElement} list
   * @param {HTMLElement} empty Shown when there is nothing.
   * @param {(inspection: any) => void} select Called when a person selects an inspection.
   */
  constructor(list, empty, select) {
    this.#list = list;
    this.#empty = empty;
    this.#select = select;
    list.addEventListener("click", (event) => {
      const tile = event.target.closest("[data-id]");
      const found = tile && this.items.find((item) => item.id === tile.dataset.id);
      if (found) {
        select(found);
      }
    });
  }

  /** What is shown, the newest first. */
  get items() {
    return (this.#frozen ?? this.#kept).get(this.#show).slice(0, SHOWN);
  }

  /** Add an inspection. It is drawn with the next ones. */
  add(inspection) {
    for (const name of ["", inspection.decision]) {
      const kept = this.#kept.get(name);
      if (!kept.some((one) => one.id === inspection.id)) {
        kept.unshift(inspection);
        kept.length = Math.min(kept.length, KEPT);
      }
    }
    if (!this.#frozen) {
      this.drawSoon();
    }
  }

  /** Replace everything by inspections that are given newest first. */
  fill(inspections) {
    this.#kept.forEach((kept) => (kept.length = 0));
    const sorted = [...new Map(inspections.map((one) => [one.id, one])).values()];
    sorted.sort((first, second) => (first.id < second.id ? -1 : 1));
    sorted.forEach((one) => this.add(one));
  }

  show(decision) {
    this.#show = decision;
    this.#draw();
  }

  /** Keep what is shown, while further inspections are added. */
  freeze(isFrozen) {
    this.#frozen = isFrozen ? new Map([...this.#kept].map(([name, kept]) => [name, [...kept]])) : null;
    this.drawSoon();
  }

  mark(id) {
    this.#selected = id;
    for (const [name, tile] of this.#tiles) {
      tile.querySelector("button").setAttribute("aria-current", String(name === id));
    }
  }

  /** Select the neighbour of the marked inspection: 1 is the next older one. */
  step(offset) {
    const items = this.items;
    const at = items.findIndex((item) => item.id === this.#selected);
    const next = items[at < 0 ? 0 : Math.min(items.length - 1, Math.max(0, at + offset))];
    if (next) {
      this.#select(next);
      this.#tiles.get(next.id)?.scrollIntoView({block: "nearest", inline: "nearest"});
    }
  }

  drawSoon() {
    if (!this.#timer && !document.hidden) {
      this.#timer = setTimeout(() => this.#draw(), DRAW_MS);
    }
  }

  #draw() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    const items = this.items;
    const ids = new Set(items.map((item) => item.id));
    for (const [id, tile] of this.#tiles) {
      if (!ids.has(id)) {
        tile.remove();
        this.#tiles.delete(id);
      }
    }
    items.forEach((item, index) => {
      const tile = this.#tiles.get(item.id) ?? this.#tile(item);
      if (this.#list.children[index] !== tile) {
        this.#list.insertBefore(tile, this.#list.children[index] ?? null);
      }
    });
    this.#empty.hidden = items.length > 0;
    this.mark(this.#selected);
    const missing = items.filter((item) => !this.#tiles.get(item.id).querySelector("img"));
    missing.slice(0, IMAGES_AT_ONCE).forEach((item) => this.#addImage(item));
    if (missing.length > IMAGES_AT_ONCE) {
      this.drawSoon();
    }
  }

  #tile(item) {
    const tile = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.id = item.id;
    button.append(document.getElementById(`decision-${item.decision}`).content.cloneNode(true));
    const part = document.createElement("span");
    part.className = "strip-part";
    part.textContent = item.part_id ?? "";
    button.append(part);
    tile.append(button);
    this.#tiles.set(item.id, tile);
    return tile;
  }

  #addImage(item) {
    const image = document.createElement("img");
    image.alt = "";
    image.decoding = "async";
    image.src = `${item.links.self}/preview?layer=image&max_side=128`;
    this.#tiles.get(item.id).querySelector("button").prepend(image);
  }
}
