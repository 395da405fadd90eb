// Forms that send their fields to the JSON API: <form data-api="POST /v1/...">.
//
// A field's name is its place in the document: "a.b" is {a: {b: ...}}. Numbers and check boxes are sent as such, check
// boxes with data-list as the list of the checked values, and texts with data-type="list" as what commas separate. An
// empty field is left out unless it has data-empty="null". When the request succeeds, data-done is shown as a message,
// data-next opens a page (which shows the message), data-refresh names the event that is triggered on the body for parts that depend on it, and
// "plumbline:done" is dispatched on the form with the response.

import {call} from "./api.js";
import {keep, show} from "./messages.js";

/** Return the document that the fields of a form make. */
export function documentOf(form) {
  const body = {};
  for (const field of form.elements) {
    if (!field.name || field.disabled || field.closest("[data-ignore]") || (field.type === "radio" && !field.checked)) {
      continue;
    }
    const value = valueOf(field);
    if (value === undefined) {
      continue;
    }
    const keys = field.name.split(".");
    const last = keys.pop();
    let place = body;
    for (const key of keys) {
      place = place[key] ??= {};
    }
    place[last] = field.dataset.list === undefined ? value : [...(place[last] ?? []), ...value];
  }
  return body;
}

function valueOf(field) {
  if (field.dataset.list !== undefined) {
    return field.checked ? [field.value] : [];
  }
  if (field.type === "checkbox") {
    return field.checked;
  }
  if (field.multiple) {
    return [...field.selectedOptions].map((option) => option.value);
  }
  if (field.value === "") {
    return field.dataset.empty === "null" ? null : undefined;
  }
  if (field.type === "number" || field.type === "range" || field.dataset.type === "number") {
    return Number(field.value);
  }
  if (field.dataset.type === "list") {
    return field.value.split(",").map((part) => part.trim()).filter(Boolean);
  }
  if (field.dataset.type === "json") {
    return JSON.parse(field.value);
  }
  return field.value;
}

async function send(form) {
  const [method, path] = form.dataset.api.split(" ");
  const buttons = [...form.querySelectorAll("button")].filter((button) => !button.disabled);
  form.querySelector(":scope > .error")?.remove();
  buttons.forEach((button) => (button.disabled = true));
  try {
    const headers = form.dataset.ifMatch ? {"If-Match": form.dataset.ifMatch} : {};
    const found = await call(method, path, {body: documentOf(form), headers});
    form.dispatchEvent(new CustomEvent("plumbline:done", {bubbles: true, detail: found}));
    if (form.dataset.done) {
      (form.dataset.next ? keep : show)(form.dataset.done);
    }
    if (form.dataset.refresh) {
      window.htmx.trigger(document.body, form.dataset.refresh);
    }
    if (form.dataset.next) {
      location.assign(form.dataset.next);
    }
    if (form.dataset.reset !== undefined) {
      form.reset();
    }
  } catch (problem) {
    const text = document.createElement("p");
    text.className = "error";
    text.setAttribute("role", "alert");
    text.textContent = problem.message;
    form.prepend(text);
    text.scrollIntoView({block: "nearest"});
  } finally {
    buttons.forEach((button) => (button.disabled = false));
  }
}

document.addEventListener("submit", (event) => {
  const form = event.target.closest("form[data-api]");
  if (form) {
    event.preventDefault();
    send(form);
  }
});
