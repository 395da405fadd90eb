// Style sheet of <plumbline-viewer>. A constructed sheet is permitted by the Content-Security-Policy, a style element is
// not. Colours are the variables of palette.css. Set --viewer-height on the element to limit the height of the image.

export const sheet = new CSSStyleSheet();
sheet.replaceSync(`
:host { display: block; min-width: 0; }
:host([hidden]), [hidden] { display: none !important; }
* { box-sizing: border-box; }
.view {
  position: relative; overflow: hidden; width: 100%; min-height: 8rem; max-height: var(--viewer-height, 70vh);
  background: var(--inset); border: 1px solid var(--line); border-radius: var(--radius);
  touch-action: pan-y; user-select: none; -webkit-user-select: none; contain: layout paint;
}
.view.zoomed { touch-action: none; cursor: grab; }
.view.panning { cursor: grabbing; }
.view.drawing { touch-action: none; cursor: crosshair; }
:host(.editing) .view { touch-action: none; }
:focus-visible { outline: 3px solid var(--focus); outline-offset: 2px; }
.stage { position: absolute; left: 0; top: 0; transform-origin: 0 0; }
.stage img { position: absolute; left: 0; top: 0; width: 100%; height: 100%; pointer-events: none; }
.stage.sharp img { image-rendering: pixelated; }
.view svg { position: absolute; left: 0; top: 0; width: 100%; height: 100%; pointer-events: none; }
path { fill: none; vector-effect: non-scaling-stroke; stroke-linejoin: round; }
.dark { stroke: #000; stroke-width: 4px; }
.light { stroke: #fff; stroke-width: 2px; }
.note {
  position: absolute; left: 50%; top: 50%; transform: translate(-50%, -50%); margin: 0; padding: 0.4rem 0.8rem;
  max-width: 90%; background: var(--panel); color: var(--text); border: 1px solid var(--line);
  border-radius: var(--radius); text-align: center;
}
.note.low { top: auto; bottom: 0; transform: translate(-50%, 0); }
.bar { display: flex; flex-wrap: wrap; gap: 0.25rem; align-items: center; padding-top: 0.25rem; }
.bar span { min-width: 4.5ch; text-align: center; font-variant-numeric: tabular-nums; color: var(--quiet); }
button, input { font: inherit; color: var(--text); min-height: 2.75rem; }
button {
  min-width: 2.75rem; padding: 0.2rem 0.6rem; border: 1px solid var(--control-line); border-radius: var(--radius);
  background: var(--inset); cursor: pointer;
}
button[aria-pressed="true"] { background: var(--primary); color: var(--on-primary); border-color: var(--primary); }
button:disabled { opacity: 0.55; cursor: default; }
.icon { display: block; width: 1.1rem; height: 1.1rem; margin: auto; }
.icon path { stroke: currentcolor; stroke-width: 2px; }
label { display: flex; gap: 0.5rem; align-items: center; flex: 1 1 10rem; color: var(--text); }
input[type="range"] { flex: 1; min-width: 6rem; accent-color: var(--primary); }
.hidden-text {
  position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap;
}
.editor p { margin: 0.3rem 0 0; color: var(--text); }
.editor p.problem { border: 2px solid var(--fail); border-radius: var(--radius); padding: 0.4rem 0.6rem; }
.handles { position: absolute; inset: 0; pointer-events: none; }
.handles button {
  position: absolute; left: 0; top: 0; width: 1.4rem; height: 1.4rem; min-width: 0; min-height: 0; margin: -0.7rem;
  padding: 0; border-radius: 50%; background: #fff; border: 3px solid #000; pointer-events: auto; touch-action: none;
  cursor: move;
}
.handles button::after { content: ""; position: absolute; inset: -0.7rem; border-radius: 50%; }
.handles span {
  position: absolute; left: 0; top: 0; width: 0.8rem; height: 0.8rem; margin: -0.4rem; border-radius: 50%;
  background: #fff; border: 2px solid #000;
}
.handles button.between { width: 1rem; height: 1rem; margin: -0.5rem; border-width: 2px; opacity: 0.75; cursor: copy; }
.handles button.between::after { inset: -0.4rem; }
.handles button:focus-visible, .handles button.chosen { background: var(--focus); }
.roi, .ignore { stroke: #fff; stroke-width: 2px; }
.outside { fill: #000; fill-opacity: 0.45; }
.ignore { fill: #000; fill-opacity: 0.35; stroke-dasharray: 6 4; }
.body.chosen { pointer-events: all; cursor: move; }
.draft { stroke: #fff; stroke-width: 2px; }
`);

// What the shadow tree of the element contains.
export const PARTS = `
<div class="view" part="view" tabindex="0" role="group" aria-describedby="help">
  <div class="stage"></div>
  <svg aria-hidden="true" focusable="false" preserveAspectRatio="none"><g transform="translate(0.5 0.5)"
    ><path class="dark"/><path class="light"/></g><g class="polygons"></g></svg>
  <div class="handles" hidden></div>
  <p class="note" hidden></p>
</div>
<p id="help" class="hidden-text"></p>
<div class="bar" role="toolbar">
  <button type="button" data-do="out">−</button><span aria-hidden="true"></span>
  <button type="button" data-do="in">+</button><button type="button" data-do="fit"
    ><svg class="icon" viewBox="0 0 16 16" aria-hidden="true" focusable="false"><path d="M2 6V2h4M10 2h4v4M14 10v4h-4M6 14H2v-4"/></svg></button>
  <label hidden><span class="blend"></span><input type="range" min="0" max="100" step="5"></label>
</div>
<div class="editor" hidden></div>
<div class="hidden-text" role="status"></div>`;
