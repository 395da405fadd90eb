// What the editor of polygons shows: shapes in the image, handles of points, and the bar below the image.

import {middleAfter, pathOf, svgElement} from "./geometry.js";

const ROOM_PX = 56; // between two points, for a handle that adds one

function button(text, dataset, {pressed, disabled = false} = {}) {
  const element = document.createElement("button");
  element.type = "button";
  element.textContent = text;
  element.disabled = disabled;
  Object.assign(element.dataset, dataset);
  if (pressed !== undefined) {
    element.setAttribute("aria-pressed", pressed);
  }
  return element;
}

/** Fill the SVG group with one shape per polygon; `place` of the editor sets the paths. */
export function renderShapes(group, {shapes, chosen, draft}) {
  const paths = [svgElement("path", {class: "outside", "fill-rule": "evenodd"})];
  shapes.forEach(({kind}, index) => {
    const shape = {"data-shape": index};
    paths.push(svgElement("path", {class: "dark", ...shape}));
    paths.push(svgElement("path", {class: `body ${kind}${index === chosen ? " chosen" : ""}`, ...shape}));
  });
  if (draft) {
    paths.push(svgElement("path", {class: "dark draft-dark"}), svgElement("path", {class: "draft"}));
  }
  group.replaceChildren(...paths);
}

/** Fill the container of handles: one per point, and one between each two points, which adds a point. */
export function renderHandles(container, points, isDraft, label) {
  const handles = points.flatMap((_, index) => {
    if (isDraft) {
      const dot = document.createElement("span");
      dot.dataset.point = index;
      return [dot];
    }
    const point = button("", {point: index});
    const between = button("", {point: index});
    between.className = "between";
    between.setAttribute("aria-label", label("add_point", {number: index + 1}));
    return [point, between];
  });
  container.replaceChildren(...handles);
}

/** Put shapes and handles where the view shows them. */
export function place(root, view, {shapes, chosen, draft}, label) {
  const group = root.querySelector(".polygons");
  const {width, height} = view.image;
  const whole = [[0, 0], [width, 0], [width, height], [0, height]];
  const roi = shapes.filter((shape) => shape.kind === "roi").map((shape) => shape.points);
  group.querySelector(".outside")?.setAttribute("d", roi.length ? pathOf([whole, ...roi]) : "");
  for (const path of group.querySelectorAll("[data-shape]")) {
    path.setAttribute("d", pathOf([shapes[path.dataset.shape].points]));
  }
  const open = pathOf([draft?.points ?? []]).replace("Z", "");
  group.querySelectorAll(".draft, .draft-dark").forEach((path) => path.setAttribute("d", open));
  const points = draft?.points ?? shapes[chosen]?.points ?? [];
  for (const handle of root.querySelector(".handles").children) {
    const index = Number(handle.dataset.point);
    const isBetween = handle.classList.contains("between");
    const [x, y] = view.toView(...(isBetween ? middleAfter(points, index) : points[index]));
    handle.style.transform = `translate(${x}px, ${y}px)`;
    if (isBetween) {
      const [a, b] = [view.toView(...points[index]), view.toView(...points[(index + 1) % points.length])];
      handle.hidden = Math.hypot(a[0] - b[0], a[1] - b[1]) < ROOM_PX;
    } else if (!draft) {
      const position = {x: Math.round(points[index][0]), y: Math.round(points[index][1])};
      handle.setAttribute("aria-label", label("point", {number: index + 1, count: points.length, ...position}));
    }
  }
}

/** Fill the bar below the image. */
export function renderBar(bar, {shapes, chosen, draft, canUndo, names, problems}, label) {
  const row = document.createElement("div");
  row.className = "bar";
  const text = document.createElement("p");
  text.setAttribute("role", "status");
  if (draft) {
    row.append(button(label("finish"), {action: "finish"}), button(label("cancel"), {action: "cancel"}));
    text.textContent = label("draw_help");
  } else {
    const hasRoi = shapes.some((shape) => shape.kind === "roi");
    row.append(
      ...names.map((name, index) => button(name, {shape: index}, {pressed: index === chosen})),
      ...(hasRoi ? [] : [button(label("add_roi"), {action: "roi"})]),
      button(label("add_ignore"), {action: "ignore"}),
      button(label("remove_point"), {action: "point"}, {disabled: true}),
      button(label("remove"), {action: "remove"}, {disabled: chosen === null}),
      button(label("undo"), {action: "undo"}, {disabled: !canUndo}),
    );
    text.textContent = problems.length ? problems.join(" ") : label("edit_help");
    text.classList.toggle("problem", problems.length > 0);
  }
  bar.replaceChildren(row, text);
}
