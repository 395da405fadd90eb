// Short messages at the bottom of the page, which a screen reader reads aloud.

const DURATION_MS = 8000;

const KEPT = "plumbline-message";

/** Keep a message for the page that is opened next. */
export function keep(text) {
  sessionStorage.setItem(KEPT, text);
}

/**
 * Show a message.
 * @param {string} text The message.
 * @param {{kind?: "info" | "error", action?: {label: string, run: () => void}}} options An error stays until it is
 *   closed. `action` is a button in the message, such as undo.
 */
export function show(text, {kind = "info", action} = {}) {
  const area = document.getElementById("messages");
  const message = document.createElement("div");
  message.className = `message ${kind}`;
  if (kind === "error") {
    message.setAttribute("role", "alert");
  }
  const content = document.createElement("span");
  content.textContent = text;
  message.append(content);
  const close = () => message.remove();
  if (action) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = action.label;
    button.addEventListener("click", () => {
      close();
      action.run();
    });
    message.append(button);
  }
  const button = document.createElement("button");
  button.type = "button";
  button.className = "close";
  button.setAttribute("aria-label", "×");
  button.textContent = "×";
  button.addEventListener("click", close);
  message.append(button);
  area.append(message);
  if (kind !== "error") {
    setTimeout(close, DURATION_MS);
  }
  return close;
}

const kept = sessionStorage.getItem(KEPT);
if (kept) {
  sessionStorage.removeItem(KEPT);
  show(kept);
}
