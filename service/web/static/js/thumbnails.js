// Small images of a list. A busy service answers 503 to some of the many that a page requests at once: these are requested again.

const ATTEMPTS = 5;
const PAUSE_MS = 1000;

const failures = new WeakMap();

function again(image) {
  const attempt = (failures.get(image) ?? 0) + 1;
  failures.set(image, attempt);
  if (attempt > ATTEMPTS) {
    image.classList.add("missing");
    return;
  }
  setTimeout(() => {
    image.src = image.src;
  }, PAUSE_MS * attempt * (0.5 + Math.random()));
}

for (const image of document.querySelectorAll(".thumbnail img")) {
  image.addEventListener("load", () => failures.delete(image));
  image.addEventListener("error", () => again(image));
  if (image.complete && image.naturalWidth === 0) {
    again(image); // it failed before this module ran
  }
}
