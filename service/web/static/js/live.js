// The live page: the newest inspection, the counters of the shift and the filmstrip.
//
// At most one inspection is drawn per SHOWN_MS, the newest one. A failed part stays for DWELL_MS unless another one
// follows, so that it is seen however fast the line is.

import {call} from "./api.js";
import {Events} from "./events.js";
import {Strip} from "./live-strip.js";
import {placesOf} from "./score-scale.js";
import {fill, locale} from "./texts.js";

const SHOWN_MS = 400;
const DWELL_MS = 2500;
const COUNT_MS = 2000;
const HIDDEN_MS = 60_000;
const RANK = {pass: 0, invalid: 1, review: 2, fail: 3};

const data = JSON.parse(document.getElementById("live-data").textContent);
const byId = (id) => document.getElementById(id);
const page = byId("live");
const viewer = byId("viewer");
const numbers = new Intl.NumberFormat(locale());
const scores = new Intl.NumberFormat(locale(), {maximumSignificantDigits: 3});
const milliseconds = new Intl.NumberFormat(locale(), {maximumFractionDigits: 0});
const clock = new Intl.DateTimeFormat(locale(), {
  timeZone: data.zone, hour: "2-digit", minute: "2-digit", second: "2-digit",
});
const minutes = new Intl.DateTimeFormat(locale(), {
  timeZone: data.zone, hour: "2-digit", minute: "2-digit",
});
const filter = new URLSearchParams(Object.entries(data).filter(([name, value]) => ["product", "station"].includes(name) && value));

const state = {shown: null, next: null, shownAt: 0, isPaused: false, missed: 0, timer: 0, countTimer: 0, hiddenAt: 0};
const strip = new Strip(byId("strip"), byId("strip-empty"), (inspection) => {
  pause(true);
  draw(inspection);
});

// Drawing

function draw(inspection) {
  state.shown = inspection;
  state.shownAt = performance.now();
  page.dataset.decision = inspection.decision;
  page.dataset.id = inspection.id;
  byId("verdict").replaceChildren(byId(`decision-${inspection.decision}`).content.cloneNode(true));
  const reasons = inspection.invalid_reasons.map((one) => data.texts.reasons[one.reason] ?? one.detail);
  byId("reasons").hidden = reasons.length === 0;
  byId("reasons").textContent = [...new Set(reasons)].join(" ");
  byId("fact-part").textContent = inspection.part_id ?? "–";
  byId("fact-station").textContent = inspection.station ?? "–";
  byId("fact-lot").textContent = inspection.lot ?? "–";
  byId("fact-product").textContent = inspection.product;
  byId("fact-time").textContent = clock.format(new Date(inspection.created_at));
  drawGauge(inspection);
  drawImage(inspection);
  strip.mark(inspection.id);
  byId("empty").hidden = true;
}

function drawImage(inspection) {
  const preview = `${inspection.links.self}/preview?max_side=768&layer=`;
  viewer.setAttribute("full-width", inspection.image.width);
  viewer.setAttribute("full-height", inspection.image.height);
  viewer.setAttribute("label", fill(data.texts.image, {part: inspection.part_id ?? "–"}));
  viewer.regions = inspection.regions;
  viewer.setAttribute("src", `${preview}image`);
  if (inspection.decision === "invalid") {
    viewer.removeAttribute("overlay");
  } else {
    viewer.setAttribute("overlay", `${preview}overlay`);
  }
}

/** Draw the score on the product's fixed scale. */
function drawGauge(inspection) {
  const {score, thresholds} = inspection;
  const gauge = byId("gauge");
  gauge.hidden = score === null;
  if (score === null) {
    return;
  }
  const places = placesOf(inspection);
  const [review, fail, at] = [places.review, places.fail, places.score].map((place) => 10 + 300 * place);
  const set = (name, attributes) => Object.entries(attributes).forEach(([key, value]) => {
    gauge.querySelector(name).setAttribute(key, value);
  });
  set(".gauge-good", {x: 10, width: review - 10});
  set(".gauge-review", {x: review, width: Math.max(0, fail - review)});
  set(".gauge-fail", {x: fail, width: 310 - fail});
  set("line.review", {x1: review, x2: review});
  set("line.fail", {x1: fail, x2: fail});
  set("text.review", {x: Math.max(60, Math.min(review, fail - 4))});
  set("text.fail", {x: fail});
  set(".gauge-pointer", {transform: `translate(${at} 0)`});
  const texts = {score, review: thresholds.review, fail: thresholds.fail};
  byId("gauge-text").textContent = fill(
    data.texts.score, Object.fromEntries(Object.entries(texts).map(([name, value]) => [name, scores.format(value)])),
  );
}

function drawCounters(shift) {
  const values = {total: shift.total, refused: shift.refused, ...shift.counts};
  for (const [name, value] of Object.entries(values)) {
    page.querySelector(`[data-count="${name}"]`).textContent = numbers.format(value);
  }
  const {min, mean, max} = shift.processing_ms;
  const times = {min, mean, max};
  page.querySelector('[data-count="times"]').textContent = min === null ? "–" : fill(
    data.texts.milliseconds, Object.fromEntries(Object.entries(times).map(([name, value]) => [name, milliseconds.format(value)])),
  );
  byId("shift").textContent = `${minutes.format(new Date(shift.start))} – ${minutes.format(new Date(shift.end))}`;
}

// Which inspection is drawn when

function receive(inspection) {
  strip.add(inspection);
  rememberStation(inspection.station);
  countSoon();
  if (state.isPaused) {
    state.missed += 1;
    showPause();
    return;
  }
  if (!state.next || RANK[inspection.decision] >= RANK[state.next.decision] || RANK[state.next.decision] < 2) {
    state.next = inspection;
  }
  schedule();
}

function schedule() {
  clearTimeout(state.timer);
  state.timer = 0;
  if (!state.next || state.isPaused || document.hidden) {
    return;
  }
  const isAbnormal = state.shown && RANK[state.shown.decision] >= 2;
  const stays = isAbnormal && RANK[state.next.decision] < RANK[state.shown.decision] ? DWELL_MS : SHOWN_MS;
  const wait = state.shown ? state.shownAt + stays - performance.now() : 0;
  if (wait > 0) {
    state.timer = setTimeout(schedule, wait);
    return;
  }
  const next = state.next;
  state.next = null;
  draw(next);
}

function pause(isPaused) {
  if (state.isPaused === isPaused) {
    return;
  }
  state.isPaused = isPaused;
  state.missed = 0;
  strip.freeze(isPaused);
  if (!isPaused) {
    const [newest] = strip.items;
    state.next = newest && newest.id !== state.shown?.id ? newest : state.next;
    schedule();
  }
  showPause();
}

function showPause() {
  byId("pause").setAttribute("aria-pressed", String(state.isPaused));
  byId("to-live").hidden = !state.isPaused;
  page.dataset.paused = String(state.isPaused);
  showStatus();
}

let connection = {state: "connecting", reason: ""};

function showStatus() {
  const {texts} = data;
  const isLost = ["lost", "refused"].includes(connection.state);
  const text = connection.state === "refused" ? fill(texts.problem, {reason: connection.reason}) : isLost ? texts.lost : "";
  const missed = state.missed ? ` · ${fill(texts.new, {count: numbers.format(state.missed)})}` : "";
  const banner = byId("connection");
  const shown = text || (state.isPaused ? texts.paused + missed : "");
  banner.hidden = !shown;
  banner.classList.toggle("lost", isLost);
  // The number of new inspections changes often: it is not read aloud.
  banner.setAttribute("aria-live", state.isPaused && !isLost && missed ? "off" : "polite");
  if (banner.textContent !== shown) {
    banner.textContent = shown;
  }
  page.dataset.state = connection.state;
}

// What the service has stored

async function refill() {
  const lists = ["", "fail", "review", "invalid"].map((decision) => {
    const query = new URLSearchParams(filter);
    query.set("limit", "24");
    if (decision) {
      query.set("decision", decision);
    }
    return call("GET", `/v1/inspections?${query}`, {isBackground: true});
  });
  const pages = await Promise.all(lists);
  const found = pages.flatMap((list) => list.items);
  strip.fill([...found, ...strip.items]);
  found.forEach((one) => rememberStation(one.station));
  const [newest] = pages[0].items;
  if (newest && !state.isPaused && (!state.shown || newest.id > state.shown.id) && !state.next) {
    state.next = newest;
    schedule();
  }
}

async function count() {
  try {
    drawCounters(await call("GET", `/v1/inspections:shift?${filter}`, {isBackground: true}));
  } catch {
    // The alarms say what is wrong; the next inspection tries again.
  }
}

function countSoon() {
  if (!state.countTimer && !document.hidden) {
    state.countTimer = setTimeout(() => {
      state.countTimer = 0;
      count();
    }, COUNT_MS);
  }
}

const stations = new Set();

function rememberStation(station) {
  if (station && stations.size < 200 && !stations.has(station)) {
    stations.add(station);
    const option = document.createElement("option");
    option.value = station;
    byId("stations").append(option);
  }
}

const events = new Events(`/v1/inspections:events?${filter}`, {
  event: receive,
  state(name, reason = "") {
    const wasConnecting = connection.state === "connecting";
    connection = {state: name, reason};
    showStatus();
    if (name === "live") {
      if (wasConnecting) {
        refill().catch(() => {});
      }
      count();
    }
  },
});

// Persons

document.querySelectorAll("[data-show]").forEach((button) => button.addEventListener("click", () => {
  document.querySelectorAll("[data-show]").forEach((one) => one.setAttribute("aria-pressed", String(one === button)));
  strip.show(button.dataset.show);
}));
byId("pause").addEventListener("click", () => pause(!state.isPaused));
byId("to-live").addEventListener("click", () => pause(false));
document.querySelectorAll(".live-filter select, .live-filter input").forEach((field) => field.addEventListener("change", () => {
  const query = new URLSearchParams([...new FormData(field.form)].filter(([, value]) => value));
  location.assign(query.size ? `/?${query}` : "/");
}));
document.querySelector(".live-filter").addEventListener("submit", (event) => event.preventDefault());

const STEPS = {ArrowLeft: -1, ArrowRight: 1};
document.addEventListener("keydown", (event) => {
  const isField = event.target.closest("input, select, textarea, [contenteditable]");
  if (isField || event.ctrlKey || event.metaKey || event.altKey) {
    return;
  }
  const key = event.key.toLowerCase();
  if (key === "p" || (key === " " && !event.target.closest("button, summary, a"))) {
    event.preventDefault();
    pause(!state.isPaused);
  } else if (key === "l") {
    pause(false);
  } else if (STEPS[event.key] && !event.defaultPrevented && !event.target.closest("plumbline-viewer, .tabs, .scroll")) {
    event.preventDefault();
    pause(true);
    strip.step(STEPS[event.key]);
  } else if (key === "h" && !event.repeat && !event.target.closest("plumbline-viewer")) {
    viewer.hold?.(true);
  }
});
document.addEventListener("keyup", (event) => {
  if (event.key.toLowerCase() === "h" && !event.target.closest("plumbline-viewer")) {
    viewer.hold?.(false);
  }
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    state.hiddenAt = performance.now();
    state.hiddenTimer = setTimeout(() => events.stop(), HIDDEN_MS);
    return;
  }
  clearTimeout(state.hiddenTimer);
  if (performance.now() - state.hiddenAt > HIDDEN_MS) {
    events.start({fresh: true});
    refill().catch(() => {});
  }
  strip.drawSoon();
  schedule();
  count();
});
addEventListener("pagehide", () => events.stop());
addEventListener("pageshow", (event) => event.persisted && events.start());

events.start();
