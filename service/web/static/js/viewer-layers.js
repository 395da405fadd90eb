// The layers of <plumbline-viewer>: image and heatmap, loaded and decoded before they are shown.

import {becomesAvailable} from "./previews.js";

/** Return an image element that is ready to be painted. */
async function decoded(url) {
  const element = new Image();
  element.alt = "";
  element.src = url;
  try {
    await element.decode();
  } catch (error) {
    if (!(await becomesAvailable(url))) {
      throw error;
    }
    element.src = url;
    await element.decode();
  }
  return element;
}

export class Layers {
  #stage;
  #changed;
  #layers = {image: blank(), overlay: blank()};

  /**
   * @param {HTMLElement} stage Contains the layers, the image below the heatmap.
   * @param {(name: string, hasFailed: boolean) => void} changed Called after a layer was loaded, or failed to load.
   */
  constructor(stage, changed) {
    this.#stage = stage;
    this.#changed = changed;
  }

  get image() {
    return this.#layers.image.element;
  }

  get overlay() {
    return this.#layers.overlay.element;
  }

  /** `empty` without an image, `failed` if the image cannot be shown, `ready` when nothing is being loaded. */
  get state() {
    const {image} = this.#layers;
    if (!image.url || image.hasFailed) {
      return image.url ? "failed" : "empty";
    }
    const wanted = Object.values(this.#layers).filter((layer) => layer.url);
    return wanted.every((layer) => layer.element || layer.hasFailed) ? "ready" : "loading";
  }

  /** Replace a layer. The old one disappears at once: no image is ever shown with the facts of another one. */
  async load(name, url) {
    const layer = this.#clear(name);
    layer.url = url ?? "";
    if (!url) {
      return;
    }
    try {
      const element = await decoded(url);
      if (this.#layers[name] === layer) {
        this.#put(name, layer, element);
      }
    } catch {
      if (this.#layers[name] === layer) {
        layer.hasFailed = true;
        this.#changed(name, true);
      }
    }
  }

  /** Load a layer with more pixels, which replaces the one that is shown. */
  async refine(name, url) {
    const layer = this.#layers[name];
    if (!url || !layer.element || layer.better === url || layer.url === url) {
      return;
    }
    layer.better = url;
    const element = await decoded(url).catch(() => null);
    if (element && this.#layers[name] === layer) {
      this.#put(name, layer, element);
    }
  }

  /** Release all images. */
  close() {
    Object.keys(this.#layers).forEach((name) => this.#clear(name));
  }

  #put(name, layer, element) {
    layer.element?.remove();
    layer.element = element;
    this.#stage[name === "image" ? "prepend" : "append"](element);
    this.#changed(name, false);
  }

  #clear(name) {
    const {element} = this.#layers[name];
    element?.remove();
    return (this.#layers[name] = blank());
  }
}

function blank() {
  return {url: "", better: "", element: null, hasFailed: false};
}
