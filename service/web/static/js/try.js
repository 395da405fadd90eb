// Try it: each image is sent to the API and judged, one after another, and nothing is stored.

import {call} from "./api.js";
import {takeDrops} from "./file-drop.js";
import {fill, locale} from "./texts.js";

const MAX_SIDE = 1024;
const MAX_SHOWN = 50;

const form = document.getElementById("try");
if (form) {
  const texts = JSON.parse(document.getElementById("try-texts").textContent);
  const list = document.getElementById("trials");
  const progress = document.getElementById("progress");
  const clear = document.getElementById("clear");
  const number = (value, options) => (value === null ? "–" : new Intl.NumberFormat(locale(), options).format(value));
  const significant = (value) => number(value, {maximumSignificantDigits: 4});
  const waiting = [];
  let running = false;
  let judged = 0;
  let total = 0;

  function add(files) {
    const product = form.elements.product.value;
    for (const file of files) {
      waiting.push({file, product});
      total += 1;
    }
    if (!running) {
      run();
    }
  }

  async function run() {
    running = true;
    while (waiting.length) {
      const {file, product} = waiting.shift();
      progress.textContent = fill(texts.judging, {number: judged + 1, count: total});
      const item = show(file.name, product);
      try {
        const data = await file.arrayBuffer();
        const path = `/v1/products/${encodeURIComponent(product)}/inspections:try?max_side=${MAX_SIDE}`;
        const headers = {"Content-Type": file.type.startsWith("image/") ? file.type : "application/octet-stream"};
        result(item, await call("POST", path, {raw: data, headers}), file.name);
      } catch (error) {
        failure(item, error instanceof DOMException ? fill(texts.not_file, {name: file.name}) : error.message);
      }
      judged += 1;
    }
    progress.textContent = fill(texts.done, {count: judged});
    judged = total = 0;
    running = false;
  }

  function show(name, product) {
    const item = document.getElementById("trial").content.cloneNode(true).firstElementChild;
    item.querySelector(".name").textContent = `${name} · ${product}`;
    item.querySelector(".verdict").textContent = texts.waiting;
    item.querySelector(".detail").hidden = true;
    list.prepend(item);
    while (list.children.length > MAX_SHOWN) {
      list.lastElementChild.remove();
    }
    clear.disabled = false;
    return item;
  }

  function result(item, trial, name) {
    const set = (part, text) => (item.querySelector(`.${part}`).textContent = text);
    const decision = document.getElementById("decisions").content.querySelector(`[data-decision=${trial.decision}]`);
    item.querySelector(".verdict").replaceChildren(decision.firstElementChild.cloneNode(true));
    set("reasons", trial.invalid_reasons.map((one) => one.detail).join(" "));
    set("score-value", significant(trial.score));
    set("p-value", significant(trial.p_value));
    set("review-threshold", significant(trial.thresholds.review));
    set("fail-threshold", significant(trial.thresholds.fail));
    set("region-count", number(trial.regions.length));
    set("size", `${trial.image.width} × ${trial.image.height}`);
    for (const measure of ["brightness", "contrast", "sharpness"]) {
      set(measure, trial.quality ? significant(trial.quality[measure]) : "–");
    }
    const milliseconds = Object.values(trial.timings_ms).reduce((sum, one) => sum + one, 0);
    set("time", `${number(milliseconds, {maximumFractionDigits: 1})} ms`);
    set("bundle", `${trial.bundle.version} ${trial.bundle.method}`);
    set("revision", number(trial.recipe_revision));
    const viewer = document.createElement("plumbline-viewer");
    viewer.setAttribute("full-width", trial.image.width);
    viewer.setAttribute("full-height", trial.image.height);
    viewer.setAttribute("controls", "zoom blend");
    viewer.setAttribute("blend", "0.6");
    viewer.setAttribute("label", fill(texts.image_of, {name}));
    viewer.setAttribute("src", urlOf(trial.preview));
    if (trial.decision !== "invalid") {
      viewer.setAttribute("overlay", urlOf(trial.overlay));
    }
    item.querySelector(".image-place").replaceChildren(viewer);
    viewer.regions = trial.regions;
    item.querySelector(".detail").hidden = false;
  }

  function failure(item, message) {
    item.querySelector(".verdict").textContent = "";
    const text = document.createElement("p");
    text.className = "error";
    text.setAttribute("role", "alert");
    text.textContent = message;
    item.querySelector(".detail").replaceWith(text);
  }

  function urlOf(image) {
    return `data:${image.media_type};base64,${image.data}`;
  }

  for (const field of [form.elements.images, form.elements.camera]) {
    field.addEventListener("change", () => {
      add([...field.files]);
      field.value = "";
    });
  }
  form.addEventListener("submit", (event) => event.preventDefault());
  form.elements.product.addEventListener("change", () => {
    history.replaceState(null, "", `/try?product=${encodeURIComponent(form.elements.product.value)}`);
  });
  clear.addEventListener("click", () => {
    list.replaceChildren();
    clear.disabled = true;
    progress.textContent = "";
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData?.files.length) {
      event.preventDefault();
      add([...event.clipboardData.files]);
    }
  });
  takeDrops(form, (files) => add([...files]));
}
