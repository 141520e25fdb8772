// The language switch keeps the place on the page, and what was searched for.
for (const link of document.querySelectorAll(".language-switch"))
  link.addEventListener("click", () => {
    link.search = location.search;
    link.hash = location.hash;
  });
