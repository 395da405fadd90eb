// Show a stored inspection in a <plumbline-viewer> that a script made or reuses.

const ZOOM_SIDE = 2048;

/** Return the URL of a preview. */
export function previewUrl(id, layer, maxSide) {
  return `/v1/inspections/${id}/preview?layer=${layer}&max_side=${maxSide}`;
}

/**
 * Show an inspection.
 * @param viewer The element.
 * @param inspection An inspection as the API returns it.
 * @param {{regions?: boolean, maxSide?: number}} options Whether regions are outlined, and the longest side of the
 *   previews in pixels.
 */
export function showInspection(viewer, inspection, {regions = true, maxSide = 1024} = {}) {
  const {id, image} = inspection;
  viewer.setAttribute("full-width", image.width);
  viewer.setAttribute("full-height", image.height);
  viewer.regions = regions ? inspection.regions : [];
  viewer.setAttribute("zoom-src", previewUrl(id, "image", ZOOM_SIDE));
  viewer.setAttribute("zoom-overlay", previewUrl(id, "overlay", ZOOM_SIDE));
  viewer.setAttribute("overlay", previewUrl(id, "overlay", maxSide));
  viewer.setAttribute("src", previewUrl(id, "image", maxSide));
}

/** Show nothing. */
export function clearViewer(viewer) {
  viewer.regions = [];
  ["src", "overlay", "zoom-src", "zoom-overlay"].forEach((name) => viewer.removeAttribute(name));
}
