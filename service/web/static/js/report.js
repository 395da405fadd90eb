// Links with data-print open the report in a new tab and print it. The report itself has no scripts.

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-print]");
  const opened = link && window.open(link.href, "_blank");
  if (opened) {
    event.preventDefault();
    opened.addEventListener("load", () => opened.print());
  }
});
