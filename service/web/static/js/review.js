// The review page: one card at a time, reviewed by keys or buttons. templates/review.html has the parts.

import {Problem} from "./api.js";
import {show} from "./messages.js";
import {Outbox} from "./review-outbox.js";
import {Queue} from "./review-queue.js";
import {Card} from "./review-card.js";
import {fill} from "./texts.js";
import {isForField} from "./viewer-input.js";

const MAX_SIDE = 1024;
const LOOK_AGAIN_MS = 30_000;
const SHORTCUTS = "plumbline-review-keys";
const MAX_KINDS = 9;
const UNDO_STEPS = 500;

class PlumblineReview extends HTMLElement {
  #texts = JSON.parse(document.getElementById("review-texts").textContent);
  #queue = new Queue(this.dataset.product, MAX_SIDE);
  #card = new Card(this, MAX_SIDE);
  #kinds = JSON.parse(document.getElementById("review-kinds").textContent);
  #history = [];
  #skipped = new Set();
  #done = 0;
  #outbox = null;
  #channel = null;
  #stop = null;
  #timer = 0;

  connectedCallback() {
    this.#stop = new AbortController();
    const {signal} = this.#stop;
    const {reviewer} = this.dataset;
    this.#outbox = new Outbox(reviewer, {
      stored: () => {},
      failed: (entry, error) => this.#returned(entry, error),
      waiting: (count) => this.#waiting(count),
    }, signal);
    this.#channel = new BroadcastChannel("plumbline-review");
    this.#channel.onmessage = ({data}) => data.reviewer === reviewer && this.#reviewedElsewhere(data.id);
    signal.addEventListener("abort", () => this.#channel.close());
    document.addEventListener("keydown", (event) => this.#key(event), {signal});
    this.addEventListener("click", (event) => this.#press(event.target.closest("[data-do]")), {signal});
    this.addEventListener("submit", (event) => this.#submit(event), {signal});
    this.addEventListener("keydown", (event) => event.key === "Escape" && this.#closePanels(), {signal});
    this.#part("kind-input").addEventListener("keydown", (event) => this.#digitInField(event), {signal});
    this.#setKeys(localStorage.getItem(SHORTCUTS) !== "off");
    this.#part("keys").addEventListener("change", (event) => this.#setKeys(event.target.checked), {signal});
    this.#showKinds();
    this.#start();
  }

  disconnectedCallback() {
    this.#stop.abort();
    clearTimeout(this.#timer);
  }

  #part(name) {
    return this.querySelector(`[data-part=${name}]`);
  }

  #text(name, values = {}) {
    return fill(this.#texts[name], values);
  }

  // Cards

  async #start() {
    try {
      await this.#queue.start(() => this.#outbox.inspections);
      this.#part("problem").hidden = true;
    } catch (error) {
      this.#fail(error);
      return;
    }
    this.#next();
  }

  #fail(error) {
    this.#part("problem-text").textContent = error instanceof Problem ? error.message : this.#text("unreachable");
    this.#part("problem").hidden = false;
    this.#part("loading").hidden = true;
  }

  /** Show the first card of the queue. */
  #next() {
    const card = this.#queue.first;
    this.#closePanels();
    this.#setNote("");
    this.#part("loading").hidden = card !== null || this.#queue.isAtEnd;
    this.#part("card").hidden = card === null;
    this.#part("empty").hidden = card !== null || !this.#queue.isAtEnd;
    this.#progress();
    if (card) {
      this.#card.show(card, this.#queue.load(card), () => this.#stop.signal.aborted || this.#queue.first !== card);
    } else {
      this.#card.clear();
      this.#end();
    }
    this.#queue.prepare(() => this.#outbox.inspections).then(() => {
      this.#progress();
      if (!card && (this.#queue.first || !this.#part("loading").hidden)) {
        this.#next();
      }
    }, (error) => !this.#queue.first && this.#fail(error));
  }

  /** Nothing is left: look again from time to time, and offer the skipped cards. */
  #end() {
    this.#part("skipped").hidden = !this.#skipped.size;
    this.#part("skipped-text").textContent = this.#text("skipped", {count: this.#skipped.size});
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      if (!this.#queue.first) {
        document.hidden ? this.#end() : this.#start();
      }
    }, LOOK_AGAIN_MS);
  }

  #progress() {
    const left = Math.max(0, this.#queue.left);
    this.#part("progress").max = Math.max(1, this.#done + left);
    this.#part("progress").value = this.#done;
    this.#part("progress-text").textContent = this.#text("progress", {done: this.#done, left});
    this.#part("undo").disabled = !this.#history.length;
  }

  // Actions

  #review(label, kind) {
    const card = this.#queue.first;
    if (!card || !this.#card.isShown) {
      return; // a key that was pressed too early has no effect
    }
    const note = this.#part("note-input").value.trim();
    const body = {label, ...(kind ? {kind} : {}), ...(note ? {note} : {})};
    this.#queue.take();
    const entry = this.#outbox.add(card.id, body, this.#card.name);
    this.#remember(card, entry);
    this.#skipped.delete(card.id);
    this.#queue.left -= 1;
    this.#done += 1;
    this.#channel.postMessage({reviewer: this.dataset.reviewer, id: card.id});
    if (kind && !this.#kinds.includes(kind)) {
      this.#kinds.push(kind);
      this.#showKinds();
    }
    this.#part("last").textContent = this.#text("last", {label: kind ?? this.#text(label), name: this.#card.name});
    this.#next();
  }

  #skip() {
    const card = this.#queue.take();
    if (card) {
      this.#remember(card, null);
      this.#skipped.add(card.id);
      this.#part("last").textContent = this.#text("last", {label: this.#text("skip"), name: this.#card.name});
      this.#next();
    }
  }

  #remember(card, entry) {
    this.#history.push({card, entry});
    this.#history.splice(0, this.#history.length - UNDO_STEPS);
  }

  #undo() {
    const last = this.#history.pop();
    if (!last) {
      return;
    }
    if (last.entry) {
      this.#outbox.undo(last.entry);
      this.#queue.left += 1;
      this.#done -= 1;
    }
    this.#skipped.delete(last.card.id);
    this.#queue.putBack(last.card);
    this.#part("last").textContent = this.#text("undone");
    this.#next();
  }

  /** The service refused a review: its card is the next one. */
  #returned(entry, error) {
    show(this.#text("refused", {name: entry.name, reason: error.message}), {kind: "error"});
    const index = this.#history.findIndex((action) => action.entry === entry);
    if (index >= 0) {
      const [{card}] = this.#history.splice(index, 1);
      this.#queue.left += 1;
      this.#done -= 1;
      const isEmpty = !this.#queue.first;
      this.#queue.putBack(card, isEmpty ? 0 : 1);
      if (isEmpty) {
        this.#next();
      }
    }
    this.#progress();
  }

  #waiting(count) {
    this.#part("waiting").hidden = count === 0;
    this.#part("waiting-text").textContent = count ? this.#text("waiting", {count}) : "";
  }

  /** The same reviewer did a card in another tab. The card that is shown here stays. */
  #reviewedElsewhere(id) {
    if (this.#queue.first?.id !== id && this.#queue.drop(id)) {
      this.#queue.left -= 1;
      this.#progress();
    }
  }

  // Keys and buttons

  #key(event) {
    const isModified = event.ctrlKey || event.metaKey || event.altKey;
    if (isModified || event.repeat || event.defaultPrevented || isForField(event) || !this.#part("keys").checked) {
      return;
    }
    const key = event.key.toLowerCase();
    const kind = this.#kinds[Number(key) - 1];
    const button = this.querySelector(`[data-key="${CSS.escape(key)}"]`);
    if (button && !button.disabled) {
      event.preventDefault();
      button.click();
    } else if (kind !== undefined) {
      event.preventDefault();
      this.#review("defect", kind);
    }
  }

  #press(element) {
    const actions = {
      good: () => this.#review("good"),
      defect: () => this.#open("kind"),
      kind: () => this.#review("defect", element.dataset.kind),
      unsure: () => this.#review("unsure"),
      skip: () => this.#skip(),
      undo: () => this.#undo(),
      note: () => this.#open("note"),
      again: () => this.#start(),
      skipped: () => this.#showSkipped(),
      close: () => this.#closePanels(),
    };
    actions[element?.dataset.do]?.();
  }

  #showSkipped() {
    this.#queue.forget(this.#skipped);
    this.#skipped.clear();
    this.#start();
  }

  #open(name) {
    if (this.#queue.first && this.#card.isShown) {
      this.#closePanels();
      this.#part(`${name}-panel`).hidden = false;
      this.#part(`${name}-input`).focus();
    }
  }

  #closePanels() {
    for (const name of ["kind", "note"]) {
      const panel = this.#part(`${name}-panel`);
      if (panel.contains(document.activeElement)) {
        this.#part("card").focus({preventScroll: true});
      }
      panel.hidden = true;
    }
    this.#part("kind-input").value = "";
    this.#setNote(this.#part("note-input").value);
  }

  #setNote(text) {
    this.#part("note-input").value = text;
    this.#part("note-text").textContent = text;
    this.#part("note-shown").hidden = !text.trim();
  }

  #submit(event) {
    event.preventDefault();
    if (event.target === this.#part("kind-panel")) {
      this.#review("defect", this.#part("kind-input").value.trim() || undefined);
    } else {
      this.#closePanels();
    }
  }

  /** In the empty field for another kind, a digit chooses from the list. */
  #digitInField(event) {
    const kind = this.#kinds[Number(event.key) - 1];
    if (kind !== undefined && !event.target.value && this.#part("keys").checked) {
      event.preventDefault();
      this.#review("defect", kind);
    }
  }

  #setKeys(isOn) {
    this.#part("keys").checked = isOn;
    localStorage.setItem(SHORTCUTS, isOn ? "on" : "off");
    this.#card.useKeys(isOn);
  }

  #showKinds() {
    this.#part("kinds").replaceChildren(...this.#kinds.slice(0, MAX_KINDS).map((kind, index) => {
      const button = document.createElement("button");
      button.type = "button";
      Object.assign(button.dataset, {do: "kind", kind});
      const key = document.createElement("kbd");
      key.textContent = index + 1;
      button.append(key, ` ${kind}`);
      return button;
    }));
    this.#part("kind-list").replaceChildren(...this.#kinds.map((kind) => new Option(kind)));
  }
}

customElements.define("plumbline-review", PlumblineReview);
