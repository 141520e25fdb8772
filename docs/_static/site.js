// The language switch keeps the place on the page, and what was searched for.
document.addEventListener("click", (event) => {
  const link = event.target.closest(".language-switch");
  if (!link) return;
  link.search = location.search;
  link.hash = location.hash;
});

// The explorer begins in the light that the reader chose for the site.
document.addEventListener("DOMContentLoaded", () => {
  for (const frame of document.querySelectorAll("iframe.explorer"))
    frame.src += `&theme=${document.documentElement.dataset.theme}`;
});

// What Sphinx and the theme leave without Japanese.
if (document.documentElement.lang === "ja") {
  document.addEventListener("DOMContentLoaded", () => {
    for (const button of document.querySelectorAll("button.theme-switch-button"))
      button.ariaLabel = "配色の切り替え";
    for (const button of document.querySelectorAll("button[data-mode=auto]"))
      button.lastChild.textContent = "端末の設定";
  });
  Documentation.addTranslations({
    locale: "ja",
    plural_expr: "0",
    messages: {
      "Search finished, found one page matching the search query.": [
        "${resultCount}件のページが見つかりました。",
      ],
    },
  });
}
