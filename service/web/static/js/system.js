// Administration: the new API key, which is shown once, and the verification of the audit log.

import {call} from "./api.js";
import {show} from "./messages.js";
import {fill, locale} from "./texts.js";

const created = document.getElementById("new-key");
if (created) {
  const key = created.querySelector("input");
  document.getElementById("create-key").addEventListener("plumbline:done", ({detail}) => {
    key.value = detail.key;
    const warnings = detail.warnings.map((text) => Object.assign(document.createElement("li"), {textContent: text}));
    created.querySelector(".warnings").replaceChildren(...warnings);
    created.hidden = false;
    key.focus();
    key.select();
  });
  created.querySelector(".copy").addEventListener("click", async ({currentTarget}) => {
    key.select();
    // The clipboard needs HTTPS or this machine; elsewhere, the selected key is copied with Ctrl+C.
    await navigator.clipboard?.writeText(key.value);
    show(currentTarget.dataset.done);
  });
  created.querySelector(".hide").addEventListener("click", () => {
    key.value = "";
    created.hidden = true;
  });
}

const verify = document.getElementById("verify");
verify?.addEventListener("click", async () => {
  const result = document.getElementById("verification");
  result.textContent = verify.dataset.busy;
  try {
    const found = await call("GET", "/v1/audit:verify");
    const count = new Intl.NumberFormat(locale()).format(found.entries);
    result.className = found.intact ? "" : "error";
    result.textContent = found.intact ? fill(verify.dataset.intact, {count}) : fill(verify.dataset.broken, found.broken);
  } catch (problem) {
    result.className = "error";
    result.textContent = problem.message;
  }
});
