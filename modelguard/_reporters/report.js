// Sorts tables, closes explanations with Escape, opens everything for print. The page says all it has to say without it.
"use strict";
const words = new Intl.Collator("en", { numeric: true });
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const body = table.tBodies[0];
      const keyed = [...body.rows].map((row) => [row.cells[column], row]);
      const numeric = keyed.every(([cell]) => cell.dataset.v !== undefined || cell.textContent === "–");
      const compare = numeric
        ? (a, b) => (a[0].dataset.v ?? Infinity) - (b[0].dataset.v ?? Infinity)
        : (a, b) => words.compare(a[0].textContent, b[0].textContent);
      keyed.sort(compare);
      if (down) keyed.reverse();
      body.append(...keyed.map(([, row]) => row));
    });
  });
}
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") document.body.classList.add("quiet");
});
for (const kind of ["pointerover", "focusin"]) {
  document.addEventListener(kind, (event) => {
    if (!event.target.closest(".term")) document.body.classList.remove("quiet");
  });
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => (part.open = true)));
