// The language switch keeps the place on the page, and what was searched for.
document.addEventListener("click", (event) => {
  const link = event.target.closest(".language-switch");
  if (!link) return;
  link.search = location.search;
  link.hash = location.hash;
});

// The explorer stands in the light that the reader chose for the site, and follows it.
document.addEventListener("DOMContentLoaded", () => {
  for (const frame of document.querySelectorAll("iframe.explorer")) {
    const address = frame.src, light = () => `${address}&theme=${document.documentElement.dataset.theme}`;
    frame.src = light();
    new MutationObserver(() => frame.contentWindow.location.replace(light()))  // no step for "back"
      .observe(document.documentElement, { attributeFilter: ["data-theme"] });
  }
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
