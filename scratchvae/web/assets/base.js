"use strict";

/** What every page shares: its data and words, language and theme, pictures, charts, numbers. */
const base = (() => {
  const root = document.documentElement;
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const words = read("words");
  const data = read("data");
  const listeners = [];

  // ------------------------------------------------------------------ what the reader chose

  /** Return what was remembered under `key`; the browser may forbid it, and then there is none. */
  function recall(key) {
    try { return localStorage.getItem(`scratchvae.${key}`); } catch { return null; }
  }

  function remember(key, value) {
    try { localStorage.setItem(`scratchvae.${key}`, value); } catch { /* then it is forgotten */ }
  }

  /** Return what the address says after its #: an embedding page says #lang=ja&theme=dark. */
  const fromAddress = (key) => new URLSearchParams(location.hash.slice(1)).get(key);

  /** Keep `value` in the address, over a reload too; null takes it out. */
  function toAddress(key, value) {
    const parts = new URLSearchParams(location.hash.slice(1));
    if (value === null) parts.delete(key); else parts.set(key, value);
    history.replaceState(null, "", `#${parts}`);
  }

  const choices = {
    language: [fromAddress("lang"), recall("language"), data.language, navigator.language.slice(0, 2)]
      .find((name) => name === "en" || name === "ja") || "en",
    theme: [fromAddress("theme"), recall("theme")].find((name) => name === "light" || name === "dark"),
  };
  const system = matchMedia("(prefers-color-scheme: dark)");

  const language = () => choices.language;
  const theme = () => choices.theme || (system.matches ? "dark" : "light");

  /** Call `listener` now and whenever language, theme or width changes: it draws the page. */
  function draw(listener) {
    listeners.push(listener);
    listener();
  }

  function apply() {
    root.lang = language();
    root.dataset.theme = theme();
    for (const element of document.querySelectorAll("[data-i18n]")) {
      element.textContent = text(element.dataset.i18n);
    }
    for (const element of document.querySelectorAll("[data-i18n-label]")) {
      element.setAttribute("aria-label", text(element.dataset.i18nLabel));
      if (element.matches("button")) element.title = text(element.dataset.i18nLabel);  // a picture says nothing else
    }
    for (const button of document.querySelectorAll("[data-language]")) {
      button.setAttribute("aria-pressed", String(button.dataset.language === language()));
    }
    document.getElementById("theme").setAttribute("aria-pressed", String(theme() === "dark"));
    for (const listener of listeners) listener();
  }

  function choose(what, value) {
    choices[what] = value;
    remember(what, value);
    const key = what === "language" ? "lang" : what;
    if (fromAddress(key)) toAddress(key, null);  // it would win over what was chosen
    apply();
  }

  // ------------------------------------------------------------------------ words and numbers

  /** The words of `key` in the reader's language, with each {name} filled in. */
  function text(key, values = {}) {
    return words[key][language()].replace(/\{(\w+)\}/g, (_, name) => values[name]);
  }

  /** A number with `decimals`, written as the reader's language writes it. */
  function number(value, decimals = 0) {
    const form = { minimumFractionDigits: decimals, maximumFractionDigits: decimals };
    return value.toLocaleString(language(), form).replace("-", "−");
  }

  // ------------------------------------------------------------------------------- pictures

  /** Decode what Python's `page.array` packed: a typed array with a `shape`. */
  function decode(packed) {
    const kinds = { Uint8Array, Uint16Array, Float32Array };
    const bytes = Uint8Array.from(atob(packed.base64), (c) => c.charCodeAt(0));
    const array = new kinds[packed.kind](bytes.buffer);
    array.shape = packed.shape;
    return array;
  }

  /** Paint pixels (height × width, row by row) on a canvas: bytes, or floats from 0 to 1. */
  function paint(canvas, pixels, height, width = height) {
    const image = new ImageData(width, height);
    const scale = pixels instanceof Uint8Array ? 1 : 255;
    const count = Math.min(pixels.length, height * width);  // a rectangle's rest stays transparent
    for (let i = 0, at = 0; i < count; i++, at += 4) {
      const value = pixels[i] * scale;  // rounded and clipped by ImageData
      image.data[at] = image.data[at + 1] = image.data[at + 2] = value;
      image.data[at + 3] = 255;
    }
    canvas.width = width;
    canvas.height = height;
    canvas.classList.add("pixels");
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  /** Make a canvas as large as it is shown, at the screen's resolution; units are CSS pixels. */
  function context(canvas, width, height) {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const drawing = canvas.getContext("2d");
    drawing.scale(ratio, ratio);
    return drawing;
  }

  /** A colour of base.css by its name: "ink", "blue", "class-3". */
  const colour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

  // --------------------------------------------------------------------------------- charts

  function svg(parent, name, attributes, content = "") {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.textContent = content;
    parent.append(element);
    return element;
  }

  /** Round values from low to high, about `count` of them, and the decimals they need. */
  function ticks(low, high, count) {
    const rough = (high - low) / count || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.7);
    const values = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) values.push(i * step || 0);  // no -0
    return { values, decimals: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
  }

  /**
   * Draw lines into `holder`, as an image whose name says where each line starts and ends.
   * `series` are {name, colour, dash, values}, one value for each of the rising `xs`; a null is a
   * gap. `now`, one of `xs`, is marked.
   */
  function lineChart(holder, { title, xs, xlabel, series, now, decimals = 1, height = 200 }) {
    const width = Math.max(holder.clientWidth, 240);
    const figure = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const margin = { left: 48, right: 12, top: 10, bottom: 36 };
    const shown = series.flatMap((line) => line.values).filter((value) => value !== null);
    const low = Math.min(...shown), high = Math.max(...shown);
    const pad = (high - low || Math.abs(high) || 1) * 0.06;
    const [first, last] = [xs[0], xs[xs.length - 1]];
    const left = margin.left, right = width - margin.right;
    const top = margin.top, bottom = height - margin.bottom;
    const x = (value) => last > first ? left + (right - left) * (value - first) / (last - first) : (left + right) / 2;
    const y = (value) => bottom - (bottom - top) * (value - low + pad) / (high - low + 2 * pad);

    const across = ticks(low - pad, high + pad, 4);
    for (const value of across.values) {
      svg(figure, "line", { class: "grid", x1: left, x2: right, y1: y(value), y2: y(value) });
      svg(figure, "text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, number(value, across.decimals));
    }
    for (const value of ticks(first, last, Math.min(8, width / 70)).values) {
      if (Number.isInteger(value)) svg(figure, "text", { x: x(value), y: bottom + 16, "text-anchor": "middle" }, number(value));
    }
    svg(figure, "text", { x: right, y: bottom + 32, "text-anchor": "end" }, xlabel);
    if (now !== undefined) svg(figure, "line", { class: "now", x1: x(now), x2: x(now), y1: top, y2: bottom });
    for (const line of series) {
      let path = "", pen = "M";
      line.values.forEach((value, i) => {
        if (value !== null) path += `${pen}${x(xs[i]).toFixed(1)} ${y(value).toFixed(1)}`;
        pen = value === null ? "M" : "L";
      });
      svg(figure, "path", { d: path, stroke: line.colour, "stroke-dasharray": line.dash || "none" });
      const here = line.values[xs.indexOf(now)];
      if (here !== undefined && here !== null) svg(figure, "circle", { cx: x(now), cy: y(here), r: 4, fill: line.colour });
    }
    const sentences = series.map((line) => text("chart_series", {
      name: line.name,
      first: line.values[0] === null ? "–" : number(line.values[0], decimals),
      last: line.values.at(-1) === null ? "–" : number(line.values.at(-1), decimals),
      from: `${xlabel} ${first}`, to: `${xlabel} ${last}`,
    }));
    figure.setAttribute("class", "chart");
    figure.setAttribute("viewBox", `0 0 ${width} ${height}`);
    figure.setAttribute("role", "img");
    figure.setAttribute("aria-label", text("chart", { title, series: sentences.join(" ") }));
    holder.replaceChildren(figure);
  }

  // ------------------------------------------------------------------------------- listeners

  for (const button of document.querySelectorAll("[data-language]")) {
    button.addEventListener("click", () => choose("language", button.dataset.language));
  }
  document.getElementById("theme").addEventListener("click", () => {
    choose("theme", theme() === "dark" ? "light" : "dark");
  });
  system.addEventListener("change", apply);
  addEventListener("hashchange", () => {  // the embedding page changes its light, and this one's address
    choices.theme = fromAddress("theme") || choices.theme;
    apply();
  });
  let width = innerWidth;
  addEventListener("resize", () => {  // a phone's address bar changes the height, and redraws nothing
    if (innerWidth !== width) apply();
    width = innerWidth;
  });
  apply();

  return {
    data, recall, remember, fromAddress, toAddress, language, theme, draw, text, number,
    decode, paint, context, colour, ticks, lineChart,
  };
})();
