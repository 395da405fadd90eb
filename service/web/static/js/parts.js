// Parts of a page that follow from a change, such as the state and the guarantee of a product: elements with data-part.

/** Load this page again, and replace its parts. What is entered elsewhere on the page stays. */
export async function refreshParts() {
  const response = await fetch(location.href, {headers: {Accept: "text/html"}});
  if (!response.ok) {
    return;
  }
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const part of document.querySelectorAll("[data-part]")) {
    const found = page.querySelector(`[data-part="${part.dataset.part}"]`);
    if (found) {
      part.replaceWith(document.adoptNode(found));
    }
  }
}
