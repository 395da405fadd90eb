// Geometry of polygons: the same rules by which the service refuses a polygon of a recipe, so that a page can state the
// reason before it sends one.

const MIN_AREA = 1;
const SVG = "http://www.w3.org/2000/svg";

/** Create an SVG element. */
export function svgElement(name, attributes = {}) {
  const element = document.createElementNS(SVG, name);
  Object.entries(attributes).forEach(([key, value]) => element.setAttribute(key, value));
  return element;
}

/** Return the points of polygons as the data of an SVG path. */
export function pathOf(polygons) {
  return polygons.map((points) => (points.length ? `M${points.map((point) => point.join(" ")).join("L")}Z` : "")).join("");
}

/** Return the point of an image that is nearest to a point, in tenths of a pixel. */
export function insideImage([x, y], {width, height}) {
  const limit = (value, most) => Math.round(Math.min(most, Math.max(0, value)) * 10) / 10;
  return [limit(x, width), limit(y, height)];
}

/** Return a polygon after it was moved, but not beyond the borders of the image. */
export function shifted(points, [dx, dy], {width, height}) {
  const limit = (step, values, most) => Math.min(Math.max(step, -Math.min(...values)), most - Math.max(...values));
  const x = limit(dx, points.map((point) => point[0]), width);
  const y = limit(dy, points.map((point) => point[1]), height);
  return points.map((point) => [point[0] + x, point[1] + y]);
}

/** Return the middle of the edge after a point. */
export function middleAfter(points, index) {
  const [x, y] = points[index];
  const [nextX, nextY] = points[(index + 1) % points.length];
  return [(x + nextX) / 2, (y + nextY) / 2];
}

/**
 * Return what is wrong with a polygon.
 * @param {[number, number][]} points Its corners in pixels of the image; it is closed automatically.
 * @param {number} width Width of the image.
 * @param {number} height Height of the image.
 * @returns {("few" | "outside" | "repeated" | "crossing" | "small")[]} Reasons, none for a valid polygon.
 */
export function problemsOf(points, width, height) {
  if (points.length < 3) {
    return ["few"];
  }
  const found = [];
  if (points.some(([x, y]) => x < 0 || y < 0 || x > width || y > height)) {
    found.push("outside");
  }
  const edges = points.map((point, index) => [point, points[(index + 1) % points.length]]);
  if (edges.some(([[x, y], [nextX, nextY]]) => x === nextX && y === nextY)) {
    found.push("repeated");
  } else if (isCrossing(edges)) {
    found.push("crossing");
  } else if (Math.abs(edges.reduce((sum, [[x, y], [nextX, nextY]]) => sum + x * nextY - nextX * y, 0)) / 2 < MIN_AREA) {
    found.push("small");
  }
  return found;
}

function isCrossing(edges) {
  const count = edges.length;
  for (let first = 0; first < count; first++) {
    const [[x, y], [nextX, nextY]] = edges[first];
    const [, [afterX, afterY]] = edges[(first + 1) % count];
    const isStraight = (nextX - x) * (afterY - nextY) === (nextY - y) * (afterX - nextX);
    if (isStraight && (nextX - x) * (afterX - nextX) + (nextY - y) * (afterY - nextY) < 0) {
      return true; // the next edge goes back over this one
    }
    for (let second = first + 2; second < count; second++) {
      if ((second + 1) % count !== first && meet(edges[first], edges[second])) {
        return true;
      }
    }
  }
  return false;
}

/** Return whether two edges have a common point. */
function meet([a, b], [c, d]) {
  const overlap = (axis) =>
    Math.min(a[axis], b[axis]) <= Math.max(c[axis], d[axis]) && Math.min(c[axis], d[axis]) <= Math.max(a[axis], b[axis]);
  const side = ([x, y], [nextX, nextY], [px, py]) => Math.sign((nextX - x) * (py - y) - (nextY - y) * (px - x));
  return overlap(0) && overlap(1) && side(a, b, c) * side(a, b, d) <= 0 && side(c, d, a) * side(c, d, b) <= 0;
}
