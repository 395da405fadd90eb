// Files that are dropped anywhere in the window of a page with a form for files.

/**
 * Give dropped files to a form.
 * @param {HTMLFormElement} form The form; it has the class "over" while files are dragged.
 * @param {(files: FileList) => void} take Gets the files.
 */
export function takeDrops(form, take) {
  // The whole window takes the drop: a browser would open an image that is dropped beside the form.
  document.addEventListener("dragover", (event) => {
    if (event.dataTransfer?.types.includes("Files")) {
      event.preventDefault();
      form.classList.add("over");
    }
  });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) {
      form.classList.remove("over");
    }
  });
  document.addEventListener("drop", (event) => {
    form.classList.remove("over");
    if (event.dataTransfer?.files.length) {
      event.preventDefault();
      take(event.dataTransfer.files);
    }
  });
}
