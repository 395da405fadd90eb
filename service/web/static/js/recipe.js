// The editor of a recipe: only what was changed is sent, errors are shown at their fields, and the effect on stored
// inspections is shown before anything is applied.

import {call} from "./api.js";
import {clearConflict, isConflict, showConflict} from "./conflict.js";
import {show} from "./messages.js";
import {fill} from "./texts.js";
import {offerUndo} from "./undo.js";

const DELAY_MS = 400;
const form = document.getElementById("recipe");
const effect = document.getElementById("change-effect");
const problems = document.getElementById("problems");
const conflict = document.getElementById("conflict");
const confirm = document.getElementById("confirm");
const viewer = document.querySelector("plumbline-viewer[editable]");
const path = form.dataset.recipe;
let revision = Number(form.dataset.revision);
let timer = 0;
let request = null;

const fields = () => form.querySelectorAll("[data-path]");

/** Return the value of a field as it stands in a recipe; null if it is empty. */
function read(field) {
  switch (field.dataset.kind) {
    case "boolean":
      return field.checked;
    case "list":
      return [...field.querySelectorAll("input:checked")].map((box) => box.value);
    case "order":
      return [...field.querySelectorAll("select")].map((one) => one.value).filter(Boolean);
    case "polygons":
      return parsePolygons(field.value);
    case "number":
      return field.value === "" ? null : Number(field.value);
    default:
      return field.value === "" ? null : field.value;
  }
}

function parsePolygons(text) {
  const lines = text.split("\n").map((line) => line.trim()).filter(Boolean);
  return lines.map((line) => line.split(/\s+/).map((point) => point.split(",").map(Number)));
}

const writePolygons = (polygons) => polygons.map((points) => points.map((point) => point.join(",")).join(" ")).join("\n");

const known = new Map();
const remember = () => fields().forEach((field) => known.set(field.dataset.path, JSON.stringify(read(field))));

/** Return the changed values as a merge patch of the recipe. */
function changes() {
  const patch = {};
  for (const field of fields()) {
    const value = read(field);
    if (JSON.stringify(value) === known.get(field.dataset.path)) {
      continue;
    }
    const keys = field.dataset.path.split(".");
    const last = keys.pop();
    let place = patch;
    for (const key of keys) {
      place = place[key] ??= {};
    }
    place[last] = value;
  }
  // Rates are derived together: a changed one needs the other, and the box belongs to them.
  if ("target_false_reject_rate" in patch || "review_rate" in patch) {
    patch.target_false_reject_rate ??= read(form.querySelector('[data-path="target_false_reject_rate"]'));
    if (document.getElementById("extrapolate").checked) {
      patch.extrapolate = true;
    }
  }
  return patch;
}

// Errors

function clearProblems() {
  problems.replaceChildren();
  form.querySelectorAll(".problem").forEach((one) => one.remove());
  for (const control of form.querySelectorAll("[aria-invalid]")) {
    control.removeAttribute("aria-invalid");
    control.setAttribute("aria-describedby", control.dataset.hint);
  }
}

/** Show an error at the field that it is about, or else at the section or above the button. */
function showProblem(problem) {
  clearProblems();
  const placed = (problem.body?.errors ?? []).map((error) => place(error)).filter(Boolean);
  if (placed.length < Math.max(1, problem.body?.errors?.length ?? 0)) {
    const text = document.createElement("p");
    text.className = "error";
    text.textContent = problem.message;
    problems.append(text);
  }
  (placed[0] ?? problems).scrollIntoView({block: "center"});
  placed[0]?.querySelector("input, select, textarea")?.focus();
}

function place({loc, msg}) {
  const keys = loc.filter((key) => key !== "body").map(String);
  for (let length = keys.length; length > 0; length -= 1) {
    const name = keys.slice(0, length).join(".");
    const found = form.querySelector(`[data-field="${CSS.escape(name)}"], fieldset[data-section="${CSS.escape(name)}"]`);
    if (found) {
      const text = document.createElement("p");
      text.className = "problem";
      text.id = `problem-${name.replaceAll(".", "-")}`;
      text.textContent = `${keys.slice(length).join(".")} ${msg}`.trim();
      found.append(text);
      const control = found.matches("fieldset") ? null : found.querySelector("input, select, textarea");
      if (control) {
        control.dataset.hint ??= control.getAttribute("aria-describedby") ?? "";
        control.setAttribute("aria-invalid", "true");
        control.setAttribute("aria-describedby", `${control.dataset.hint} ${text.id}`.trim());
      }
      return found;
    }
  }
  return null;
}

// Effect

function schedule() {
  clearTimeout(timer);
  timer = setTimeout(preview, DELAY_MS);
}

async function preview() {
  request?.abort();
  request = new AbortController();
  clearProblems();
  const patch = changes();
  if (!Object.keys(patch).length) {
    effect.textContent = form.dataset.nothing;
    return;
  }
  try {
    const found = await call("POST", `${path}:preview`, {body: patch, signal: request.signal});
    const names = JSON.parse(effect.dataset.names);
    const {verdicts, labelled} = found;
    const listed = verdicts.changes.map(({before, after, count}) => `${names[before]} → ${names[after]} ${count}`);
    const values = {
      inspections: verdicts.inspections,
      changed: verdicts.changed_total,
      changes: listed.join(", ") || effect.dataset.none,
      labelled: labelled.inspections,
      changed_labelled: labelled.changed_total,
    };
    effect.textContent = fill(effect.dataset.text, values);
  } catch (problem) {
    if (problem.name !== "AbortError") {
      effect.textContent = "";
      showProblem(problem);
    }
  }
}

function moveLimit(field) {
  const [, side, measure] = /^quality\.(min|max)_(\w+)$/.exec(field.dataset?.path ?? "") ?? [];
  if (!side || field.value === "") {
    return;
  }
  const kind = side === "min" ? "low" : "high";
  for (const spark of form.querySelectorAll(`.spark[data-measure="${measure}"]`)) {
    const line = spark.querySelector(`[data-limit="${kind}"]`);
    const {low, high} = spark.dataset;
    const at = ((field.value - low) / (high - low)) * spark.viewBox.baseVal.width;
    line?.setAttribute("x1", at);
    line?.setAttribute("x2", at);
  }
}

// Polygons: the viewer and the text show the same.

const area = {roi: document.getElementById("roi"), ignore: document.getElementById("ignore")};

function showPolygons() {
  const polygons = {roi: parsePolygons(area.roi.value), ignore: parsePolygons(area.ignore.value)};
  const isComplete = Object.values(polygons).flat().every((points) => points.every((point) => point.length === 2 && point.every(Number.isFinite)));
  if (viewer && isComplete) {
    viewer.area = polygons;
  }
}

viewer?.addEventListener("plumbline:polygons", ({detail}) => {
  area.roi.value = writePolygons(detail.area.roi);
  area.ignore.value = writePolygons(detail.area.ignore);
  schedule();
});

form.addEventListener("input", (event) => {
  if (event.target === viewer) { // the opacity of the heatmap
    return;
  }
  moveLimit(event.target);
  if (event.target.matches("textarea")) {
    showPolygons();
  }
  if (event.target.name !== "reason" && !event.target.closest("#confirm")) {
    schedule();
  }
});

// Applying

function askForConfirmation(removed) {
  confirm.hidden = false;
  confirm.querySelector("input").checked = false;
  confirm.querySelector("input").dataset.removed = removed;
  confirm.querySelector("span").textContent = form.dataset.remove.replace("{count}", removed);
}

function adopt(record) {
  revision = record.revision;
  document.getElementById("revision").textContent = revision;
}

async function apply() {
  clearTimeout(timer);
  clearProblems();
  clearConflict(conflict);
  const patch = changes();
  if (!Object.keys(patch).length) {
    show(form.dataset.nothing);
    return;
  }
  const before = revision;
  const box = confirm.querySelector("input");
  const confirmed = !confirm.hidden && box.checked ? {confirm_removal: Number(box.dataset.removed)} : {};
  try {
    const body = {...patch, ...confirmed, reason: form.elements.reason.value};
    const record = await call("PUT", path, {body, headers: {"If-Match": `"${revision}"`}});
    adopt(record);
    remember();
    form.elements.reason.value = "";
    confirm.hidden = true;
    effect.textContent = form.dataset.nothing;
    offerUndo({
      message: form.dataset.done.replace("{revision}", record.revision),
      label: form.dataset.undo,
      undone: form.dataset.undone,
      undo: () =>
        call("POST", `${path}/revisions/${before}:revert`, {
          body: {reason: form.dataset.undo},
          headers: {"If-Match": `"${record.revision}"`},
        }),
      after: () => location.reload(),
    });
  } catch (problem) {
    if (isConflict(problem)) {
      await showConflict(conflict, path, before, (current) => adopt(current));
    } else if (problem.type?.endsWith("#removal-not-confirmed")) {
      askForConfirmation(problem.body.removed);
      showProblem(problem);
    } else {
      showProblem(problem);
    }
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const button = form.querySelector("button.primary");
  button.disabled = true;
  apply().finally(() => (button.disabled = false));
});

remember();
