// The places of a score and of its thresholds on the scale of its product, as service/web/score_scale.py has them for
// the parts that the service draws. The page states the place of the fail threshold in data-fail-place.

/**
 * Return the places as shares of the scale, 0 to 1.
 * @param {{score: number | null, thresholds: {review: number, fail: number}, heatmap_scale: {low: number}}} inspection
 *   An inspection of the API.
 * @returns {{review: number, fail: number, score: number}} Without a score, its place is 0.
 */
export function placesOf({score, thresholds: {review, fail}, heatmap_scale: scale}) {
  const failPlace = Number(document.querySelector("[data-fail-place]").dataset.failPlace);
  const low = Math.min(scale.low, review);
  const span = (fail - low) / failPlace || 1;
  const place = (value) => Math.min(1, Math.max(0, (value - low) / span));
  return {review: place(review), fail: place(fail), score: place(score ?? low)};
}
