// The course of the evidence of drift, one chart per stream.

import {timeline} from "./chart.js";

const {charts, labels, zone} = JSON.parse(document.getElementById("drift-data").textContent);

for (const element of document.querySelectorAll("[data-stream]")) {
  const {at, evidence, limit} = charts[element.dataset.stream];
  timeline(element, {
    at,
    values: evidence,
    markers: [{label: labels.limit, value: limit, dash: [6, 4], colour: "--review-text"}],
    labels,
    zone,
  });
}
