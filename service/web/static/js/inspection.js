// The page of one inspection: the kind of a defect, and the result of a replay.

import {locale} from "./texts.js";

const reviewForm = document.querySelector(".review-form");
reviewForm?.addEventListener("change", () => showKind());
reviewForm?.addEventListener("reset", () => setTimeout(showKind));

function showKind() {
  const chosen = reviewForm.querySelector("[name=label]:checked")?.value;
  for (const part of reviewForm.querySelectorAll("[data-for-label]")) {
    part.hidden = part.dataset.forLabel !== chosen;
    part.querySelector("input").disabled = part.hidden;
  }
}

const replay = document.getElementById("replay");
replay?.addEventListener("plumbline:done", ({detail}) => {
  const result = replay.querySelector(".replay-result");
  const format = new Intl.NumberFormat(locale(), {maximumSignificantDigits: 6});
  const verdict = (one) => `${one.decision} · ${format.format(one.score)} · ${one.provider}`;
  const set = (name, text) => (result.querySelector(`.${name}`).textContent = text);
  set("outcome", detail.outcome === "same" ? replay.dataset.same : replay.dataset.different);
  set("stored", verdict(detail.stored));
  set("replayed", verdict(detail.replayed));
  set("difference", format.format(detail.score_difference));
  set("tolerance", format.format(detail.tolerance));
  set("summary", detail.summary);
  result.hidden = false;
});
