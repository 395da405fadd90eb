// Teach a product: the chosen images, or one zip file, are sent to the API, which queues a training job.

import {call} from "./api.js";
import {takeDrops} from "./file-drop.js";
import {show} from "./messages.js";
import {closest} from "./similar.js";
import {fill, fillCount} from "./texts.js";

const MIB = 2 ** 20;

const form = document.getElementById("training");
const texts = JSON.parse(document.getElementById("training-texts").textContent);
const sending = document.getElementById("sending");
const button = form.querySelector("button.primary");
const newProduct = form.elements.create_product;

/** Return why these files cannot be sent in one request; null if they can. */
function refusal(files) {
  const zips = files.filter(isZip).length;
  if (zips && files.length > 1) {
    return texts.one_zip;
  }
  if (files.length > texts.images) {
    return fill(texts.too_many, {count: files.length, limit: texts.images});
  }
  const size = files.reduce((sum, file) => sum + file.size, 0);
  return size > texts.bytes ? fill(texts.too_large, {limit: Math.floor(texts.bytes / MIB)}) : null;
}

function isZip(file) {
  return file.type === "application/zip" || file.name.toLowerCase().endsWith(".zip");
}

function pathOf() {
  const {product, activate, quick_only: quickOnly} = form.elements;
  const query = new URLSearchParams();
  if (activate.checked) {
    query.set("activate", "true");
  }
  if (quickOnly.checked) {
    query.set("quick_only", "true");
  }
  if (newProduct.checked) {
    query.set("create_product", "true");
  }
  return `/v1/products/${encodeURIComponent(product.value)}/good-images?${query}`;
}

function bodyOf(files) {
  if (isZip(files[0])) {
    return {raw: files[0], headers: {"Content-Type": "application/zip"}};
  }
  const body = new FormData();
  for (const file of files) {
    body.append("image", file, file.name);
  }
  return {raw: body};
}

function fail(message) {
  const text = document.createElement("p");
  text.className = "error";
  text.setAttribute("role", "alert");
  text.textContent = message;
  form.append(text);
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  form.querySelector(":scope > .error")?.remove();
  const files = [...form.elements.images.files];
  const reason = refusal(files);
  if (reason) {
    fail(reason);
    return;
  }
  button.disabled = true;
  sending.textContent = fillCount(texts.sending, files.length);
  try {
    const job = await call("POST", pathOf(), bodyOf(files));
    show(fill(texts.queued, {count: job.images}));
    newProduct.checked = false;
    form.elements.images.value = "";
    window.htmx.trigger(document.body, "training-jobs");
  } catch (error) {
    fail(error.message);
  } finally {
    sending.textContent = "";
    button.disabled = false;
  }
});

// A misspelt name would create a product, so a person confirms that the product is new.
function askIfNew() {
  const name = form.elements.product.value;
  const isNew = form.elements.product.validity.valid && !texts.products.includes(name);
  newProduct.closest("label").hidden = !isNew;
  newProduct.disabled = !isNew;
  newProduct.required = isNew;
  newProduct.checked = false;
  if (isNew) {
    const similar = closest(name, texts.products).join(", ");
    const statement = fill(texts.new_product, {product: name});
    newProduct.nextElementSibling.textContent = similar ? `${statement} ${fill(texts.similar, {names: similar})}` : statement;
  }
}

form.elements.product.addEventListener("input", askIfNew);
askIfNew();

takeDrops(form, (files) => {
  form.elements.images.files = files;
});
