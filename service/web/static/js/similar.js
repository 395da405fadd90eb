// Names that a misspelt one may have meant.

const MOST = 3;

/** Return the known names that differ from a name by at most a third of its letters, the most similar first. */
export function closest(name, known) {
  return known
    .map((one) => ({one, distance: distance(name, one)}))
    .filter((entry) => entry.distance <= Math.max(1, Math.floor(name.length / 3)))
    .sort((a, b) => a.distance - b.distance)
    .slice(0, MOST)
    .map((entry) => entry.one);
}

/** Return how many letters have to be inserted, removed or replaced to turn one text into another (Levenshtein). */
function distance(from, to) {
  let row = Array.from({length: to.length + 1}, (_, column) => column);
  for (let line = 1; line <= from.length; line++) {
    const next = [line];
    for (let column = 1; column <= to.length; column++) {
      const replaced = row[column - 1] + (from[line - 1] === to[column - 1] ? 0 : 1);
      next.push(Math.min(replaced, row[column] + 1, next[column - 1] + 1));
    }
    row = next;
  }
  return row[to.length];
}
