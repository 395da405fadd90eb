// Changes that are made at once and can be undone: the message about a change has a button that takes it back.
//
// <form data-api="POST ..." data-undo="POST /v1/..." data-undo-body='{"reason": "..."}' data-undo-label="Undo"
//   data-undone="..." data-message="...">: when the request of the form succeeds, data-message is shown with the button.

import {call} from "./api.js";
import {show} from "./messages.js";

/**
 * Show a message with a button that takes a change back.
 * @param {{message: string, label: string, undone: string, undo: () => Promise<unknown>, after: () => void}} change
 */
export function offerUndo({message, label, undone, undo, after}) {
  const run = async () => {
    try {
      await undo();
      show(undone);
      after();
    } catch (problem) {
      show(problem.message, {kind: "error"});
    }
  };
  show(message, {action: {label, run}});
}

document.addEventListener("plumbline:done", (event) => {
  const {undo, undoBody, undoLabel, undone, message, refresh} = event.target.dataset;
  if (!undo) {
    return;
  }
  const [method, path] = undo.split(" ");
  offerUndo({
    message,
    label: undoLabel,
    undone,
    undo: () => call(method, path, {body: JSON.parse(undoBody ?? "{}")}),
    after: () => (refresh ? window.htmx.trigger(document.body, refresh) : location.reload()),
  });
});
