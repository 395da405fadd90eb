// Previews of stored inspections. A busy service answers 503 to some of the many that a page requests at once: these are requested again.

const ATTEMPTS = 5;
const PAUSE_MS = 1000;
const PREVIEW = /^\/v1\/inspections\/[^/]+\/preview$/;

/**
 * Wait until a preview that failed to load can be loaded.
 * @param {string} url The URL of the image.
 * @returns {Promise<boolean>} False if it cannot be loaded: the service says so, it remains busy, or it is no preview.
 */
export async function becomesAvailable(url) {
  const {origin, pathname} = new URL(url, location.href);
  if (origin !== location.origin || !PREVIEW.test(pathname)) {
    return false;
  }
  for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS * (attempt - 0.5) * (0.5 + Math.random())));
    const response = await fetch(url).catch(() => null);
    if (response?.ok) {
      await response.blob(); // from now on it is in the cache of the browser
      return true;
    }
    if (response && response.status !== 503) {
      return false;
    }
  }
  return false;
}

async function again(image) {
  const url = image.src;
  const isAvailable = await becomesAvailable(url);
  if (image.src !== url) {
    return; // another image is shown there by now
  }
  if (isAvailable) {
    image.src = url;
  } else {
    image.classList.add("missing");
  }
}

// Errors of images do not bubble, but they are captured: so images that scripts or htmx add later are included.
document.addEventListener("error", (event) => event.target instanceof HTMLImageElement && again(event.target), true);
document.addEventListener(
  "load", (event) => event.target instanceof HTMLImageElement && event.target.classList.remove("missing"), true,
);
for (const image of document.querySelectorAll("img")) {
  if (image.src && image.complete && image.naturalWidth === 0) {
    again(image); // it failed before this module ran
  }
}
