// Reviews on their way to the service: sent one after the other in the background, again until they are stored, kept
// over a reload of the page, and never stored twice.

import {call, Problem} from "./api.js";

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 10_000;
const SLOW_ATTEMPTS = 2;
const TEMPORARY = new Set([408, 425, 429]);

/** Return whether a request that failed may succeed later. */
function isTemporary(error) {
  // Status 0: the service cannot be reached.
  return !(error instanceof Problem) || error.status === 0 || error.status >= 500 || TEMPORARY.has(error.status);
}

export class Outbox {
  #key;
  #reviewer;
  #report;
  #entries;
  #isRunning = false;
  #wake = null;

  /**
   * @param {string} reviewer Name of the reviewer. Reviews of another one in this tab stay until that one returns.
   * @param {{stored: Function, failed: Function, waiting: Function}} report Called with an entry that is stored or
   *   refused, and with the number of entries that the service does not accept at the moment.
   * @param {AbortSignal} signal Ends listening to events of the window.
   */
  constructor(reviewer, report, signal) {
    this.#key = `plumbline-reviews:${reviewer}`;
    this.#reviewer = reviewer;
    this.#report = report;
    this.#entries = JSON.parse(sessionStorage.getItem(this.#key) ?? "[]");
    for (const entry of this.#entries.filter(({action}) => action === "undo")) {
      const isReviewed = ({action, inspection}) => action === "review" && inspection === entry.inspection;
      entry.of = this.#entries.find(isReviewed) ?? entry.of;
    }
    window.addEventListener("online", () => this.#wake?.(), {signal});
    window.addEventListener("beforeunload", (event) => this.#entries.length && event.preventDefault(), {signal});
    this.#run();
  }

  /** The inspections whose review is not stored yet. */
  get inspections() {
    return this.#entries.map((entry) => entry.inspection);
  }

  /** Send a review. */
  add(inspection, body, name) {
    const entry = {inspection, body, name, action: "review", attempts: 0, review: null};
    this.#push(entry);
    return entry;
  }

  /** Withdraw a review: before it is sent, if that is still possible. */
  undo(entry) {
    const index = this.#entries.indexOf(entry);
    if (index > 0 || (index === 0 && !this.#isRunning)) {
      this.#entries.splice(index, 1);
      this.#save();
      return;
    }
    this.#push({inspection: entry.inspection, of: entry, name: entry.name, action: "undo", attempts: 0});
  }

  #push(entry) {
    this.#entries.push(entry);
    this.#save();
    this.#run();
  }

  #save() {
    sessionStorage.setItem(this.#key, JSON.stringify(this.#entries));
  }

  async #run() {
    if (this.#isRunning) {
      return;
    }
    this.#isRunning = true;
    while (this.#entries.length) {
      const [entry] = this.#entries;
      try {
        const isRepeated = entry.attempts > 0;
        entry.attempts += 1;
        this.#save();
        await (entry.action === "undo" ? this.#withdraw(entry) : this.#store(entry, isRepeated));
        this.#finish(entry);
        this.#report.stored(entry);
      } catch (error) {
        if (error.status === 401) {
          break; // the log-in opens; the entries are sent when the reviewer returns
        }
        if (!isTemporary(error)) {
          this.#finish(entry);
          this.#report.failed(entry, error);
          continue;
        }
        if (entry.attempts >= SLOW_ATTEMPTS) {
          this.#report.waiting(this.#entries.length);
        }
        await this.#pause(Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (entry.attempts - 1)));
      }
    }
    this.#isRunning = false;
  }

  #finish(entry) {
    this.#entries.splice(this.#entries.indexOf(entry), 1);
    this.#save();
    this.#report.waiting(0);
  }

  async #store(entry, isRepeated) {
    // The response to an earlier attempt may be lost although the review is stored.
    entry.review = (isRepeated && (await this.#find(entry))) || null;
    entry.review ??= (await call("POST", `/v1/inspections/${entry.inspection}:review`, {body: entry.body})).id;
  }

  async #find({inspection, body}) {
    const history = await call("GET", `/v1/inspections/${inspection}/reviews`);
    const own = history.items.find((review) => review.reviewer === this.#reviewer && review.state === "current");
    const isSame = own && ["label", "kind", "note"].every((name) => own[name] === (body[name] ?? null));
    return isSame ? own.id : null;
  }

  async #withdraw(entry) {
    const review = entry.of.review; // null if the service refused it
    if (review !== null) {
      await call("POST", `/v1/inspections/${entry.inspection}:undo-review`, {body: {review_id: review}});
    }
  }

  #pause(duration) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, duration);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
