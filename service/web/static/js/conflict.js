// A recipe that another person changed since the page was loaded: the change is refused and shown, not overwritten.

import {call} from "./api.js";

export const isConflict = (problem) => problem.type?.endsWith("#recipe-conflict");

/**
 * Show which revision is in force, who made it and why, and what it changed.
 * @param {HTMLElement} box An element with a template that has .who, .changes, .take and .reload.
 * @param {string} recipe Path of the recipe in the API.
 * @param {number} base The revision that the page was made from.
 * @param {(record: object) => void} take Called with the revision in force if the person keeps the own entries.
 */
export async function showConflict(box, recipe, base, take) {
  const current = await call("GET", recipe);
  const found = await call("GET", `${recipe}/revisions/${base}/diff/${current.revision}`);
  const content = box.querySelector("template").content.cloneNode(true);
  content.querySelector(".revision").textContent = current.revision;
  content.querySelector(".who").textContent = current.author;
  content.querySelector(".why").textContent = current.reason;
  content.querySelector(".changes").append(
    ...found.differences.map(({path, before, after}) => {
      const item = document.createElement("li");
      const name = document.createElement("code");
      name.textContent = path;
      item.append(name, ` ${JSON.stringify(before ?? null)} → ${JSON.stringify(after ?? null)}`);
      return item;
    }),
  );
  content.querySelector(".reload").addEventListener("click", () => location.reload());
  content.querySelector(".take").addEventListener("click", () => {
    clearConflict(box);
    take(current);
  });
  clearConflict(box);
  box.append(content);
  box.hidden = false;
  box.querySelector("button").focus();
}

export function clearConflict(box) {
  box.hidden = true;
  box.replaceChildren(box.querySelector("template"));
}
