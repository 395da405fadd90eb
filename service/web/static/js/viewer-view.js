// Which part of an image a view shows: pure arithmetic for <plumbline-viewer>.

const MIN_MAX_ZOOM = 8;
const LARGEST_PIXEL = 24;

export class View {
  /** Size of the view in pixels of the page. */
  size = {width: 0, height: 0};
  /** Size of the original image in pixels. */
  image = {width: 1, height: 1};
  /** Free pixels of the page around the whole image, for handles at its border. */
  padding = 0;
  /** 1 shows the whole image. */
  zoom = 1;
  /** Centre of the view as a share of width and height of the image. */
  x = 0.5;
  y = 0.5;

  get fitScale() {
    const [width, height] = [this.size.width, this.size.height].map((side) => Math.max(1, side - 2 * this.padding));
    return Math.min(width / this.image.width, height / this.image.height);
  }

  /** Pixels of the page per pixel of the image. */
  get scale() {
    return this.fitScale * this.zoom;
  }

  get maxZoom() {
    return Math.max(MIN_MAX_ZOOM, LARGEST_PIXEL / this.fitScale);
  }

  /** Where the upper left corner of the image is in the view. */
  get corner() {
    const {width, height} = this.image;
    return [this.size.width / 2 - this.x * width * this.scale, this.size.height / 2 - this.y * height * this.scale];
  }

  get middle() {
    return [this.size.width / 2, this.size.height / 2];
  }

  set({zoom, x, y}) {
    this.zoom = Math.min(this.maxZoom, Math.max(1, zoom));
    this.x = x;
    this.y = y;
    this.clamp();
  }

  /** Keep the image in the view. */
  clamp() {
    if (this.size.width) {
      this.x = this.#limit(this.x, this.size.width, this.image.width);
      this.y = this.#limit(this.y, this.size.height, this.image.height);
    }
  }

  /** Return the view after its zoom was multiplied. The point of the view that is given stays where it is. */
  zoomed(factor, at) {
    const zoom = Math.min(this.maxZoom, Math.max(1, this.zoom * factor));
    const [x, y] = this.toImage(...at);
    const scale = this.fitScale * zoom;
    const [middleX, middleY] = this.middle;
    return {
      zoom,
      x: (x - (at[0] - middleX) / scale) / this.image.width,
      y: (y - (at[1] - middleY) / scale) / this.image.height,
    };
  }

  /** Return the view after it was moved by pixels of the page. */
  panned(dx, dy) {
    const {width, height} = this.image;
    return {zoom: this.zoom, x: this.x + dx / (width * this.scale), y: this.y + dy / (height * this.scale)};
  }

  /** Convert a point of the view to pixels of the image. */
  toImage(x, y) {
    const [left, top] = this.corner;
    return [(x - left) / this.scale, (y - top) / this.scale];
  }

  /** Convert a point of the image to pixels of the view. */
  toView(x, y) {
    const [left, top] = this.corner;
    return [left + x * this.scale, top + y * this.scale];
  }

  #limit(value, shown, whole) {
    const half = shown / (2 * whole * this.scale);
    return half >= 0.5 ? 0.5 : Math.min(1 - half, Math.max(half, value));
  }
}
