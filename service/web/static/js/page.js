// What every page has: preferences, forms of the API, and the CSRF token in requests of htmx.

import {csrfToken} from "./api.js";
import "./forms.js";
import "./previews.js";

const YEAR_S = 365 * 24 * 3600;

for (const menu of document.querySelectorAll("[data-preference]")) {
  menu.addEventListener("change", () => {
    const secure = location.protocol === "https:" ? "; Secure" : "";
    document.cookie = `${menu.dataset.preference}=${menu.value}; Path=/; Max-Age=${YEAR_S}; SameSite=Strict${secure}`;
    location.reload();
  });
}

document.addEventListener("htmx:config:request", (event) => {
  event.detail.ctx.request.headers["X-CSRF-Token"] = csrfToken();
});

// A menu closes with Escape and with a click elsewhere.
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    closeMenus();
  }
});
document.addEventListener("click", (event) => closeMenus(event.target.closest("details.menu")));

function closeMenus(except = null) {
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (menu !== except) {
      menu.open = false;
    }
  }
}
