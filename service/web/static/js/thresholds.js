// The thresholds of a product: sliders, the chart, the effect before anything is applied, and applying with undo.

import {call} from "./api.js";
import {histogram} from "./chart.js";
import {clearConflict, isConflict, showConflict} from "./conflict.js";
import {refreshParts} from "./parts.js";
import {offerUndo} from "./undo.js";

const DELAY_MS = 150;
const DIGITS = 6;
const SHOWN_DIGITS = 8; // thresholds from calibration scores have more, which only the computation needs

const page = JSON.parse(document.getElementById("thresholds-data").textContent);
const form = document.getElementById("apply");
const effect = document.getElementById("effect");
const conflict = document.getElementById("conflict");
const fields = ["fail", "review"].map((name) => ({
  name,
  slider: document.getElementById(`${name}-slider`),
  input: document.getElementById(`${name}-value`),
}));
let inForce = {...page.thresholds};
let chosen = {...inForce};
let proposed = {...inForce};
let revision = page.revision;
let timer = 0;
let request = null;
let announced = Promise.resolve();

const markers = () => [
  {label: page.labels.review, value: proposed.review, dash: [6, 4], colour: "--review-text"},
  {label: page.labels.fail, value: proposed.fail, dash: [], colour: "--fail"},
];
const chart = histogram(document.getElementById("distribution"), {
  edges: page.scores.edges,
  series: [
    {label: page.labels.reference, counts: page.scores.reference.counts, total: page.scores.reference.total},
    {label: page.labels.recent, counts: page.scores.recent.counts, total: page.scores.recent.total},
  ],
  markers: markers(),
  labels: page.labels.chart,
});

/**
 * Set a threshold; the other one follows, because the review threshold is at most the fail threshold. It returns to its
 * own value as soon as that is possible: while "10" is typed, the field contains "1".
 */
function set(name, value, source) {
  chosen[name] = value;
  proposed =
    name === "fail"
      ? {fail: value, review: Math.min(chosen.review, value)}
      : {fail: Math.max(chosen.fail, value), review: value};
  refresh(source);
}

/** Propose thresholds. */
function propose(thresholds) {
  chosen = {...thresholds};
  proposed = {...thresholds};
  refresh();
}

function refresh(source = null) {
  for (const {name, slider, input} of fields) {
    if (slider !== source) {
      slider.value = proposed[name];
    }
    if (input !== source) {
      input.value = Number(proposed[name].toPrecision(SHOWN_DIGITS));
    }
  }
  chart.setMarkers(markers());
  effect.setAttribute("aria-busy", "true");
  allow();
  clearTimeout(timer);
  timer = setTimeout(load, DELAY_MS);
}

/** Enable the buttons. Rates are applied when they are computed for the thresholds that are shown. */
function allow() {
  const isChanged = proposed.fail !== inForce.fail || proposed.review !== inForce.review;
  const isWaiting = form.elements.way.value === "rates" && effect.getAttribute("aria-busy") === "true";
  form.querySelector("button.primary").disabled = !isChanged || isWaiting;
  document.getElementById("reset").disabled = !isChanged;
}

async function load() {
  request?.abort();
  request = new AbortController();
  const query = new URLSearchParams({fail_threshold: proposed.fail, review_threshold: proposed.review});
  try {
    const response = await fetch(`${page.part}?${query}`, {signal: request.signal, headers: {"HX-Request": "true"}});
    const target = response.headers.get("HX-Redirect");
    if (target) {
      location.assign(target);
      return;
    }
    effect.innerHTML = await response.text();
    if (!response.ok) { // the part states the reason
      return;
    }
    effect.setAttribute("aria-busy", "false");
    const rates = nearest();
    form.querySelector('[value="rates"]').disabled = rates === null;
    if (rates === null) {
      form.querySelector('[value="hand"]').checked = true;
    }
    allow();
  } catch (error) {
    if (error.name !== "AbortError") {
      const text = document.createElement("p");
      text.className = "error";
      text.textContent = page.labels.failed;
      effect.replaceChildren(text);
    }
  }
}

function nearest() {
  const data = document.getElementById("nearest");
  return data ? JSON.parse(data.textContent) : null;
}

for (const {name, slider, input} of fields) {
  slider.addEventListener("input", () => set(name, Number(Number(slider.value).toPrecision(DIGITS)), slider));
  input.addEventListener("input", () => {
    if (input.value !== "" && input.checkValidity()) {
      set(name, Number(input.value), input);
    }
  });
  input.addEventListener("change", () => refresh());
}

document.getElementById("reset").addEventListener("click", () => propose(inForce));
form.addEventListener("change", allow);

function adopt(record) {
  revision = record.revision;
  inForce = {fail: record.recipe.fail_threshold, review: record.recipe.review_threshold};
  propose(inForce);
  refreshParts();
}

async function apply() {
  const isByRates = form.elements.way.value === "rates";
  const rates = nearest();
  const values = isByRates
    ? {target_false_reject_rate: rates.target_false_reject_rate, review_rate: rates.review_rate}
    : {fail_threshold: proposed.fail, review_threshold: proposed.review};
  const before = revision;
  form.querySelector(".error")?.remove();
  clearConflict(conflict);
  try {
    const body = {...values, reason: form.elements.reason.value};
    const record = await call("PUT", page.recipe, {body, headers: {"If-Match": `"${revision}"`}});
    adopt(record);
    form.elements.reason.value = "";
    offerUndo({
      message: page.labels.done.replace("{revision}", record.revision),
      label: page.labels.undo,
      undone: page.labels.undone,
      undo: async () => adopt(await revert(before, record.revision)),
      after: () => {},
    });
  } catch (problem) {
    if (isConflict(problem)) {
      await showConflict(conflict, page.recipe, before, (current) => {
        // Only the thresholds in force move; the proposed ones stay as they were entered.
        const kept = {...proposed};
        adopt(current);
        propose(kept);
      });
      return;
    }
    const text = document.createElement("p");
    text.className = "error";
    text.setAttribute("role", "alert");
    text.textContent = problem.message;
    form.prepend(text);
  }
}

const revert = (to, from) =>
  call("POST", `${page.recipe}/revisions/${to}:revert`, {
    body: {reason: page.labels.undo},
    headers: {"If-Match": `"${from}"`},
  });

form.addEventListener("submit", (event) => {
  event.preventDefault();
  announced = announced.then(apply);
});

refresh();
