// Charts with uPlot (vendor/uPlot.iife.min.js must be loaded): colours of the theme, numbers of the language, the width
// of the page, and the same values as a table for screen readers and for copying.
//
// A chart is drawn into an element <div class="chart" aria-label="..." data-table="..." ></div>: the label names the
// chart, data-table the summary of the table. Series differ by their form, too: bars, line, dashed line.

import {locale} from "./texts.js";

const HEIGHT_PX = 260;
const ASPECT = 0.55;

// A canvas does not know light-dark(), which the colours of the palette consist of, so an element computes them.
const sample = document.createElement("span");
sample.hidden = true;
document.body.append(sample);

function colour(name) {
  sample.style.color = `var(${name})`;
  return getComputedStyle(sample).color;
}

/** Return a function that writes numbers with a number of significant digits, in the language of the page. */
export function significant(digits = 4) {
  const format = new Intl.NumberFormat(locale(), {maximumSignificantDigits: digits});
  return (value) => format.format(value);
}

const axis = (label) => ({
  label,
  labelSize: 22,
  font: "12px system-ui, sans-serif",
  labelFont: "12px system-ui, sans-serif",
  stroke: () => colour("--text"),
  grid: {stroke: () => colour("--line"), width: 0.5},
  ticks: {stroke: () => colour("--line"), width: 0.5},
});

class Chart {
  #plot;
  #options;
  #observer;

  /**
   * @param {HTMLElement} element Where the chart is drawn.
   * @param {object} options Options of uPlot without a size.
   * @param {number[][]} data Data of uPlot.
   * @param {{label: string, value: number, dash: number[], colour: string}[]} markers Vertical or horizontal lines.
   */
  constructor(element, options, data, markers, isVertical) {
    this.markers = markers;
    this.isVertical = isVertical;
    this.canvas = document.createElement("div");
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", element.getAttribute("aria-label") ?? "");
    this.canvas.className = "chart-canvas";
    element.removeAttribute("aria-label");
    element.append(this.canvas);
    this.#options = {
      ...options,
      ...this.#size(),
      legend: {show: false},
      cursor: {show: false},
      hooks: {draw: [(plot) => this.#drawMarkers(plot)]},
    };
    this.#plot = new window.uPlot(this.#options, data, this.canvas);
    this.#observer = new ResizeObserver(() => this.#plot.setSize(this.#size()));
    this.#observer.observe(this.canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#plot.redraw(false));
  }

  /** Move the lines. */
  setMarkers(markers) {
    this.markers = markers;
    this.#plot.redraw(false);
  }

  #size() {
    const width = Math.max(240, this.canvas.clientWidth);
    return {width, height: Math.min(HEIGHT_PX, Math.round(width * ASPECT) + 60)};
  }

  #drawMarkers(plot) {
    const context = plot.ctx;
    const {left, top, width, height} = plot.bbox;
    const ratio = devicePixelRatio;
    context.save();
    context.font = `${12 * ratio}px system-ui, sans-serif`;
    context.textAlign = "left";
    context.textBaseline = "alphabetic";
    context.lineWidth = 2 * ratio;
    let row = 0;
    for (const marker of this.markers) {
      const at = plot.valToPos(marker.value, this.isVertical ? "x" : "y", true);
      const isInside = this.isVertical ? at >= left && at <= left + width : at >= top && at <= top + height;
      if (!isInside) {
        continue;
      }
      context.strokeStyle = colour(marker.colour);
      context.setLineDash(marker.dash.map((length) => length * ratio));
      context.beginPath();
      context.moveTo(this.isVertical ? at : left, this.isVertical ? top : at);
      context.lineTo(this.isVertical ? at : left + width, this.isVertical ? top + height : at);
      context.stroke();
      const length = context.measureText(marker.label).width;
      const x = this.isVertical ? Math.min(at + 4 * ratio, left + width - length) : left + width - length - 4 * ratio;
      const y = this.isVertical ? top + (14 + 16 * row) * ratio : at - 5 * ratio;
      context.fillStyle = colour("--panel");
      context.fillRect(x - 2 * ratio, y - 12 * ratio, length + 4 * ratio, 15 * ratio);
      context.fillStyle = colour("--text");
      context.fillText(marker.label, x, y);
      row += 1;
    }
    context.restore();
  }
}

/** Append the values as a table in <details>. */
function addTable(element, heads, rows) {
  const details = document.createElement("details");
  const summary = document.createElement("summary");
  summary.textContent = element.dataset.table;
  const scroll = document.createElement("div");
  scroll.className = "scroll";
  scroll.tabIndex = 0;
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", element.dataset.table);
  const table = document.createElement("table");
  const line = (cells, tag) => {
    const row = document.createElement("tr");
    for (const text of cells) {
      const cell = document.createElement(tag);
      cell.textContent = text;
      cell.className = "number";
      row.append(cell);
    }
    return row;
  };
  const head = document.createElement("thead");
  head.append(line(heads, "th"));
  const body = document.createElement("tbody");
  body.append(...rows.map((cells) => line(cells, "td")));
  table.append(head, body);
  scroll.append(table);
  details.append(summary, scroll);
  element.append(details);
}

/** Append the names of the series, each beside the form in which it is drawn. */
function addLegend(element, series) {
  const list = document.createElement("ul");
  list.className = "chart-legend";
  for (const {label, form} of series) {
    const item = document.createElement("li");
    item.className = `swatch-${form}`;
    item.textContent = label;
    list.append(item);
  }
  element.prepend(list);
}

/**
 * Draw a histogram of several series as shares in percent.
 * @param {HTMLElement} element Where it is drawn.
 * @param {{edges: number[], series: {label: string, counts: number[], total: number}[], markers: object[],
 *   labels: {x: string, y: string, from: string, to: string}}} what The first series is drawn as bars, the second as a
 *   line.
 */
export function histogram(element, {edges, series, markers, labels}) {
  const centres = edges.slice(1).map((edge, index) => (edge + edges[index]) / 2);
  const shares = series.map(({counts, total}) => counts.map((count) => (total ? (100 * count) / total : 0)));
  const {bars, stepped} = window.uPlot.paths;
  const forms = [
    {paths: bars({size: [1, Infinity]}), fill: () => colour("--series-2"), width: 0, points: {show: false}},
    {paths: stepped({align: 0}), stroke: () => colour("--series-1"), width: 2, points: {show: false}},
  ];
  addLegend(element, series.map(({label}, index) => ({label, form: index ? "line" : "bar"})));
  const number = significant(3);
  const options = {
    scales: {x: {time: false, range: [edges[0], edges.at(-1)]}, y: {range: (plot, low, high) => [0, high || 1]}},
    axes: [
      {...axis(labels.x), values: (plot, ticks) => ticks.map(number)},
      {...axis(labels.y), size: 52, values: (plot, ticks) => ticks.map(number)},
    ],
    series: [{}, ...series.map(({label}, index) => ({label, ...forms[index]}))],
  };
  const chart = new Chart(element, options, [centres, ...shares], markers, true);
  const rows = centres.flatMap((_, index) => {
    const counts = series.map((one) => one.counts[index]);
    return counts.some(Boolean) ? [[number(edges[index]), number(edges[index + 1]), ...counts.map(String)]] : [];
  });
  addTable(element, [labels.from, labels.to, ...series.map(({label}) => label)], rows);
  return chart;
}

/**
 * Draw the course of a value.
 * @param {HTMLElement} element Where it is drawn.
 * @param {{at: number[], values: number[], markers: object[], labels: {time: string, value: string}, zone: string}} what
 *   Times are in seconds since 1970; zone is the time zone of the page.
 */
export function timeline(element, {at, values, markers, labels, zone}) {
  const number = significant(3);
  const time = new Intl.DateTimeFormat(locale(), {dateStyle: "short", timeStyle: "short", timeZone: zone});
  const highest = Math.max(...values, ...markers.map(({value}) => value), 0.1);
  const options = {
    tzDate: (seconds) => window.uPlot.tzDate(new Date(seconds * 1000), zone),
    scales: {y: {range: [0, highest * 1.1]}},
    axes: [
      {...axis(""), space: 110, values: (plot, ticks) => ticks.map((tick) => time.format(tick * 1000))},
      {...axis(labels.value), size: 52, values: (plot, ticks) => ticks.map(number)},
    ],
    series: [{}, {label: labels.value, stroke: () => colour("--series-1"), width: 2, points: {show: false}}],
  };
  const chart = new Chart(element, options, [at, values], markers, false);
  addTable(element, [labels.time, labels.value], at.map((seconds, index) => [time.format(seconds * 1000), number(values[index])]));
  return chart;
}
