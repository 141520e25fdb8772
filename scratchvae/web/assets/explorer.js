/** The explorer: what is in the plane, what is decoded, and the four tools. Its models are in network.js. */
const explorer = (() => {
  const { data, text, number, colour } = base;
  const $ = (id) => document.getElementById(id);
  const TOOLS = ["walk", "path", "posterior", "own"];
  const NEAREST = 10, DRAWS = 64, ACTIVE = 0.01, FIRST = 12, TILES = 19, SECONDS = 4;
  const shape = data.shape;
  const random = network.uniform(Date.now());
  const still = matchMedia("(prefers-reduced-motion: reduce)");

  const state = {
    model: null, tool: "walk", z: null, axes: [0, 1],
    a: null, b: null, t: 0, playing: 0,     // the path
    picked: 0, eps: null, draws: [],        // the posterior
    strokes: [], own: null, noisy: null,    // the drawing: as strokes, as pixels, corrupted
    all: false,
  };
  let images = [], models = [], codes = [], order = [], thumbs = [];

  // ------------------------------------------------------------------------------- the start

  async function start() {
    if (!("DecompressionStream" in window)) throw new Error(text("too_old"));
    const { x } = await network.unpack(data.images);
    const size = x.shape[1];
    images = Array.from({ length: x.shape[0] }, (_, i) => Float64Array.from(x.subarray(i * size, (i + 1) * size), (v) => v / 255));
    for (const run of data.runs) models.push(await network.open(run));
    thumbs = chosenImages();
    state.model = models[0];
    await take(0);
    listen();
    base.draw(words);
  }

  /** One image of each class, in the order of the classes; without classes the first ten. */
  function chosenImages() {
    const of = (rank) => data.labels.indexOf(rank);
    const found = data.labels ? data.classes.map((_, rank) => of(rank)).filter((i) => i >= 0) : images.map((_, i) => i);
    return found.slice(0, data.labels ? 20 : NEAREST);
  }

  /** Take the run `index` as the model: its codes, its axes; z stays where there is room for it. */
  async function take(index) {
    const before = state.model, model = state.model = models[index], run = model.run;
    if (!model.codes) {
      if (model.encode) model.codes = images.map((x) => model.encode(x));
      else {
        const { mu, logvar } = await network.unpack(run.codes);
        const row = (array, i) => Float64Array.from(array.subarray(i * run.n_latent, (i + 1) * run.n_latent));
        model.codes = images.map((_, i) => ({ mu: row(mu, i), ...(logvar && { logvar: row(logvar, i) }) }));
      }
    }
    codes = model.codes;
    order = run.use.map((_, i) => i).sort((i, j) => run.use[j] - run.use[i]);
    if (!state.z || before.run.n_latent !== run.n_latent) {
      state.axes = run.n_latent === 2 ? [0, 1] : [order[0], run.n_latent > 1 ? order[1] : null];
      state.z = codes[thumbs[0]].mu.slice();
      state.picked = thumbs[0];
    }
    state.eps = new Float64Array(run.n_latent);
    state.draws = [];
    [state.a, state.b] = [state.a && before === model ? state.a : codes[thumbs[0]].mu.slice(), codes[thumbs.at(-1)].mu.slice()];
    scene.stale = true;
  }

  // ------------------------------------------------------------------------------- the plane

  const scene = { stale: true, size: 0, still: document.createElement("canvas") };

  /** Where a vector lies in the two shown latents. A latent alone is a line; image `i` is scattered about it. */
  function across(z, i = null) {
    const [p, q] = state.axes;
    if (q !== null) return [z[p], z[q]];
    return [z[p], i === null ? 0 : ((i * 0.618034) % 1 - 0.5) * 1.6];
  }

  /** The part of the plane that is shown: [low, high] across and up. A VAE's has one scale for both. */
  function extent() {
    const { run } = state.model, [p, q] = state.axes;
    const [x, y] = [run.ranges[p], q === null ? [-1, 1] : run.ranges[q]];
    if (run.kind !== "vae" || q === null) return [x, y];
    const both = [Math.min(x[0], y[0]), Math.max(x[1], y[1])];
    return [both, both];
  }

  function toScreen([x, y]) {
    const [[l, r], [b, t]] = extent(), n = scene.size;
    return [(x - l) / (r - l) * n, n - (y - b) / (t - b) * n];
  }

  function fromScreen([px, py]) {
    const [[l, r], [b, t]] = extent(), n = scene.size;
    return [l + px / n * (r - l), b + (n - py) / n * (t - b)];
  }

  /** `z` moved to a place in the plane, within what is shown; its other latents stay. */
  function movedTo(z, place) {
    const next = z.slice();
    state.axes.forEach((axis, k) => {
      if (axis === null) return;
      const [low, high] = extent()[k];
      next[axis] = Math.min(Math.max(place[k], low), high);
    });
    return next;
  }

  const classColour = (rank) => colour(`class-${rank % 10}`);

  /** Draw what does not move: decoded tiles, the prior's circles, the points, the names of the classes. */
  function drawScene() {
    const n = scene.size, pen = base.context(scene.still, n, n);
    pen.clearRect(0, 0, n, n);
    if ($("show-decoded").checked && shape) drawTiles(pen, n);
    const ink = colour("quiet"), line = colour("line");
    const [ox, oy] = toScreen([0, 0]);
    pen.strokeStyle = line;
    pen.lineWidth = 1;
    pen.beginPath();
    pen.moveTo(ox, 0); pen.lineTo(ox, n); pen.moveTo(0, oy); pen.lineTo(n, oy);
    pen.stroke();
    if (state.model.vae) {
      for (const radius of [1, 2, 3]) {
        const rx = toScreen([radius, 0])[0] - ox;
        Object.assign(pen, { strokeStyle: ink, lineWidth: 1, globalAlpha: 0.6 });
        pen.setLineDash([3, 4]);
        pen.beginPath();
        if (state.axes[1] !== null) pen.arc(ox, oy, rx, 0, 2 * Math.PI);
        else for (const x of [ox - rx, ox + rx]) { pen.moveTo(x, 0); pen.lineTo(x, n); }
        pen.stroke();
        pen.setLineDash([]);
        pen.globalAlpha = 1;
        label(pen, `${radius}σ`, ox + rx * Math.SQRT1_2 + 4, oy - rx * Math.SQRT1_2 - 4, ink);
      }
    }
    if ($("show-codes").checked) drawPoints(pen);
    const [[l, r], [b, t]] = extent(), [p, q] = state.axes;
    label(pen, `${name(p)} →`, n - 40, n - 8, ink);
    if (q !== null) label(pen, `↑ ${name(q)}`, 8, 18, ink);
    for (const value of [l, r]) label(pen, number(value, 1), value === l ? 6 : n - 34, oy - 6, ink);
    if (q !== null) for (const value of [b, t]) label(pen, number(value, 1), ox + 6, value === b ? n - 6 : 16, ink);
  }

  function label(pen, words, x, y, ink, font = "12px") {
    pen.font = `${font} ${colour("text")}`;
    pen.lineWidth = 3;
    pen.strokeStyle = colour("panel");
    pen.lineJoin = "round";
    pen.strokeText(words, x, y);
    pen.fillStyle = ink;
    pen.fillText(words, x, y);
  }

  function drawPoints(pen) {
    const named = data.labels && $("show-names").checked;
    const faint = $("show-decoded").checked && shape ? 0.45 : 0.8;
    if (named) { pen.font = `600 11px ${colour("text")}`; pen.textAlign = "center"; pen.textBaseline = "middle"; }
    const radius = images.length > 600 ? 2.4 : 3;
    const fills = data.labels ? data.classes.map((_, rank) => classColour(rank)) : [colour("blue")];
    pen.globalAlpha = faint;
    codes.forEach(({ mu }, i) => {
      const rank = data.labels ? data.labels[i] : 0, [x, y] = toScreen(across(mu, i));
      pen.fillStyle = fills[rank];
      if (named) pen.fillText(data.classes[rank], x, y);
      else if (rank < 10) { pen.beginPath(); pen.arc(x, y, radius, 0, 2 * Math.PI); pen.fill(); }
      else pen.fillRect(x - radius, y - radius, 2 * radius, 2 * radius);
    });
    pen.globalAlpha = 1;
    pen.textAlign = "center"; pen.textBaseline = "middle";
    if (!named) marks().forEach(({ x, y, rank }) => {
      pen.beginPath(); pen.arc(x, y, 10, 0, 2 * Math.PI);
      pen.fillStyle = colour("panel"); pen.fill();
      pen.strokeStyle = fills[rank]; pen.lineWidth = 2; pen.stroke();
      pen.fillStyle = colour("ink"); pen.font = `600 12px ${colour("text")}`;
      pen.fillText(data.classes[rank], x, y + 0.5);
    });
    pen.textAlign = "start"; pen.textBaseline = "alphabetic";
  }

  /** The classes' names at the medians of their codes, pushed apart until none covers another. */
  function marks() {
    const found = data.classes.flatMap((_, rank) => {
      const members = codes.map((code, i) => across(code.mu, i)).filter((_, i) => data.labels[i] === rank);
      const middle = (k) => members.map((place) => place[k]).sort((p, q) => p - q)[members.length >> 1];
      if (!members.length) return [];
      const [x, y] = toScreen([middle(0), middle(1)]);
      return [{ x, y, rank }];
    });
    for (let round = 0; round < 100; round++) {
      for (const p of found) {
        for (const q of found) {
          const far = Math.hypot(q.x - p.x, q.y - p.y);
          if (p.rank >= q.rank || far >= 25) continue;
          const [dx, dy] = far > 0 ? [(q.x - p.x) / far, (q.y - p.y) / far] : [1, 0], push = (25 - far) / 2;
          p.x -= dx * push; p.y -= dy * push; q.x += dx * push; q.y += dy * push;
        }
      }
    }
    return found;
  }

  /** The decoder's image of every part of the plane, in ink on the page's own paper. */
  function drawTiles(pen, n) {
    const [height, width] = shape, rows = state.axes[1] === null ? 1 : TILES;
    const tile = document.createElement("canvas");
    [tile.width, tile.height] = [width, height];
    const ink = base.theme() === "dark" ? 235 : 30, image = new ImageData(width, height);
    const side = n / TILES;
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < TILES; column++) {
        const at = [(column + 0.5) * side, rows === 1 ? n / 2 : (row + 0.5) * side];
        const x = state.model.decode(movedTo(state.z, fromScreen(at)));
        for (let i = 0; i < height * width; i++) {
          image.data.fill(ink, 4 * i, 4 * i + 3);
          image.data[4 * i + 3] = 200 * x[i];
        }
        tile.getContext("2d").putImageData(image, 0, 0);
        pen.drawImage(tile, at[0] - side / 2, at[1] - side / 2, side, side);
      }
    }
  }

  function drawPlane() {
    const canvas = $("plane"), size = canvas.clientWidth;
    if (size !== scene.size) [scene.size, scene.stale] = [size, true];
    if (scene.stale) { scene.stale = false; drawScene(); }
    const pen = base.context(canvas, size, size);
    canvas.style.width = canvas.style.height = "";  // the style sheet decides
    pen.drawImage(scene.still, 0, 0, size, size);
    if (state.tool === "path") {
      const [a, b] = [toScreen(across(state.a)), toScreen(across(state.b))];
      pen.strokeStyle = colour("ink"); pen.lineWidth = 2;
      pen.beginPath(); pen.moveTo(...a); pen.lineTo(...b); pen.stroke();
      for (const [place, letter] of [[a, "A"], [b, "B"]]) handle(pen, place, letter);
    }
    const q = shownPosterior();
    if (q) {
      for (const radius of [1, 2]) ellipse(pen, toScreen, q, radius, colour("vermillion"));
      if (state.tool === "posterior") dots(pen, state.draws.map((eps) => toScreen(across(network.reparameterize(q.mu, q.logvar, eps)))));
    }
    const here = toScreen(across(state.z));
    if (state.tool === "walk" || state.tool === "own") cross(pen, here); else dot(pen, here);
  }

  /** The posterior that belongs to what is shown, or nothing. */
  function shownPosterior() {
    if (!state.model.vae) return null;
    if (state.tool === "posterior") return codes[state.picked];
    return state.tool === "own" && state.own && state.model.encode ? state.model.encode(state.own) : null;
  }

  function handle(pen, [x, y], letter) {
    pen.beginPath(); pen.arc(x, y, 13, 0, 2 * Math.PI);
    pen.fillStyle = colour("panel"); pen.fill();
    pen.strokeStyle = colour("ink"); pen.lineWidth = 2; pen.stroke();
    pen.fillStyle = colour("ink"); pen.font = `600 14px ${colour("text")}`;
    pen.textAlign = "center"; pen.textBaseline = "middle";
    pen.fillText(letter, x, y + 0.5);
  }

  function cross(pen, [x, y]) {
    for (const [width, ink] of [[5, "panel"], [2, "ink"]]) {
      pen.strokeStyle = colour(ink); pen.lineWidth = width;
      pen.beginPath(); pen.arc(x, y, 8, 0, 2 * Math.PI);
      pen.moveTo(x - 14, y); pen.lineTo(x - 4, y); pen.moveTo(x + 4, y); pen.lineTo(x + 14, y);
      pen.moveTo(x, y - 14); pen.lineTo(x, y - 4); pen.moveTo(x, y + 4); pen.lineTo(x, y + 14);
      pen.stroke();
    }
  }

  function dot(pen, [x, y]) {
    pen.beginPath(); pen.arc(x, y, 5, 0, 2 * Math.PI);
    pen.fillStyle = colour("vermillion"); pen.fill();
    pen.strokeStyle = colour("panel"); pen.lineWidth = 2; pen.stroke();
  }

  function ellipse(pen, place, { mu, logvar }, radius, ink) {
    const sigma = (axis) => Math.exp(logvar[axis] / 2), [p, q] = state.axes;
    const centre = across(mu), [x, y] = place(centre);
    const [ex] = place([centre[0] + radius * sigma(p), centre[1]]);
    const ey = q === null ? y + 6 * radius : place([centre[0], centre[1] + radius * sigma(q)])[1];
    pen.strokeStyle = ink; pen.lineWidth = 2;
    pen.beginPath(); pen.ellipse(x, y, Math.abs(ex - x), Math.abs(ey - y), 0, 0, 2 * Math.PI); pen.stroke();
  }

  function dots(pen, places) {
    pen.fillStyle = colour("vermillion");
    pen.globalAlpha = 0.6;
    for (const [x, y] of places) { pen.beginPath(); pen.arc(x, y, 2.5, 0, 2 * Math.PI); pen.fill(); }
    pen.globalAlpha = 1;
  }

  // -------------------------------------------------------------------------- what is decoded

  const subscript = (n) => String(n).replace(/\d/g, (digit) => "₀₁₂₃₄₅₆₇₈₉"[digit]);
  const name = (axis) => `z${subscript(axis + 1)}`;

  /** Show data x on a canvas: as an image, or as a curve where they are none. */
  function show(canvas, x) {
    if (shape) { base.paint(canvas, x instanceof Float64Array ? Float32Array.from(x) : x, ...shape); return; }
    const [width, height] = [280, 200], pen = base.context(canvas, width, height);
    canvas.style.width = canvas.style.height = "";
    canvas.classList.add("curve");
    pen.strokeStyle = colour("blue"); pen.lineWidth = 2;
    pen.beginPath();
    x.forEach((value, i) => pen.lineTo(8 + (width - 16) * i / Math.max(x.length - 1, 1), height - 8 - (height - 16) * value));
    pen.stroke();
  }

  /** The latents that are in the plane, as words: "z₁ = 0.52". */
  const position = () => state.axes.filter((axis) => axis !== null)
    .map((axis) => `${name(axis)} = ${number(state.z[axis], 2)}`);

  function nearest() {
    const far = codes.map(({ mu }, i) => [mu.reduce((sum, m, k) => sum + (m - state.z[k]) ** 2, 0), i])
      .sort((p, q) => p[0] - q[0]);
    if (!data.labels) return text("nearest_plain", { i: far[0][1] + 1, far: number(Math.sqrt(far[0][0]), 2) });
    const counts = new Map(), around = far.slice(0, NEAREST);
    for (const [, i] of around) counts.set(data.labels[i], (counts.get(data.labels[i]) || 0) + 1);
    const [rank, k] = [...counts].sort((p, q) => q[1] - p[1])[0];
    return text("nearest", { name: data.classes[rank], k, n: around.length });
  }

  let frame = 0, saying = 0;

  /** Draw the page in the next frame, however often it is asked for. */
  function redraw() {
    if (!frame) frame = requestAnimationFrame(() => { frame = 0; render(); });
  }

  function render() {
    drawPlane();
    const shown = state.model.decode(state.z);
    show($("picture"), shown);
    $("z").textContent = position().join("\n");
    if (state.tool === "posterior") drawTrick();
    drawSliders();
    clearTimeout(saying);  // what is read aloud waits until the hand rests
    saying = setTimeout(say, 250);
  }

  function say() {
    const near = nearest(), picture = text("picture", { z: position().join(", "), nearest: near });
    $("nearest").textContent = near;
    $("picture").setAttribute("aria-label", picture);
    $("live").textContent = picture;
  }

  function goTo(z) {
    state.z = Float64Array.from(z);
    redraw();
  }

  // ------------------------------------------------------------------------------------ tools

  /** Go to another tool: what it shows comes into the plane. */
  function choose(tool) {
    state.tool = tool;
    pause();
    showTool();
    enter();
  }

  function enter() {
    if (state.tool === "path") along(state.t);
    if (state.tool === "posterior") pick(state.picked);
    if (state.tool === "own") afterOwn();
  }

  function showTool() {
    const { tool } = state;
    for (const each of TOOLS) {
      $(`tab-${each}`).setAttribute("aria-selected", String(each === tool));
      $(`tab-${each}`).tabIndex = each === tool ? 0 : -1;
      $(`panel-${each}`).hidden = each !== tool;
    }
    if (tool === "path") drawStrips();
    if (tool === "own") drawOwn();
    redraw();
  }

  /** Take a test image: its code, its posterior. */
  function pick(i) {
    state.picked = i;
    state.draws = [];
    state.eps = new Float64Array(state.model.run.n_latent);
    for (const button of document.querySelectorAll(".thumbs button")) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.i) === i));
    }
    if (state.tool === "own") useImage(i);
    goTo(codes[i].mu);
  }

  function samplePrior() {
    goTo(state.z.map(() => network.normal(random)));
    if (state.model.run.n_latent > 2) scene.stale = $("show-decoded").checked;
  }

  // The path.

  /** Go to z(t) = (1 - t) A + t B. */
  function along(t) {
    state.t = t;
    $("time").value = t;
    goTo(state.a.map((a, i) => (1 - t) * a + t * state.b[i]));
  }

  function play() {
    if (state.playing) { pause(); return; }
    let before = null, forth = 1;
    const step = (now) => {
      if (before !== null) {
        let t = state.t + forth * (now - before) / 1000 / SECONDS;
        if (t >= 1 || t <= 0) forth = -forth;
        if (still.matches && t >= 1) { along(1); pause(); return; }  // once, and not for ever
        along(Math.min(Math.max(t, 0), 1));
      }
      before = now;
      state.playing = requestAnimationFrame(step);
    };
    if (state.t >= 1) along(0);
    state.playing = requestAnimationFrame(step);
    $("play").textContent = text("pause");
  }

  function pause() {
    cancelAnimationFrame(state.playing);
    state.playing = 0;
    $("play").textContent = text("play");
  }

  function otherEnds() {
    const any = () => Math.floor(random() * images.length);
    const first = any();
    let second = any();
    for (let tries = 0; tries < 50 && data.labels && data.labels[second] === data.labels[first]; tries++) second = any();
    [state.a, state.b] = [codes[first].mu.slice(), codes[second].mu.slice()];
    drawStrips();
    along(0);
  }

  function drawStrips() {
    if (!shape) { $("strip").hidden = $("fade").hidden = true; return; }
    const [height, width] = shape, count = 9, gap = 2, { a, b } = state;
    const wide = count * (width + gap) - gap;
    const ends = [state.model.decode(a), state.model.decode(b)];
    for (const [id, make] of [
      ["strip", (t) => state.model.decode(a.map((v, i) => (1 - t) * v + t * b[i]))],
      ["fade", (t) => ends[0].map((v, i) => (1 - t) * v + t * ends[1][i])],
    ]) {
      const all = new Float32Array(height * wide);
      for (let k = 0; k < count; k++) {
        const x = make(k / (count - 1));
        for (let row = 0; row < height; row++) {
          all.set(x.subarray(row * width, (row + 1) * width), row * wide + k * (width + gap));
        }
      }
      base.paint($(id), all, height, wide);
    }
  }

  // The posterior.

  /** Take this ε: z = μ + σ ⊙ ε. */
  function takeEps(eps) {
    const q = codes[state.picked];
    state.eps = Float64Array.from(eps);
    state.draws = [...state.draws.slice(-199), state.eps];
    goTo(network.reparameterize(q.mu, q.logvar, state.eps));
  }

  const drawEps = () => takeEps(state.eps.map(() => network.normal(random)));

  const HALF = 3.3;  // standard deviations from the middle of a square to its edge

  function square(canvas, half) {
    const n = canvas.clientWidth, pen = base.context(canvas, n, n);
    canvas.style.width = canvas.style.height = "";
    const place = (centre) => ([x, y]) => [n / 2 + (x - centre[0]) / half * n / 2, n / 2 - (y - centre[1]) / half * n / 2];
    pen.strokeStyle = colour("line"); pen.lineWidth = 1;
    pen.beginPath(); pen.moveTo(n / 2, 0); pen.lineTo(n / 2, n); pen.moveTo(0, n / 2); pen.lineTo(n, n / 2); pen.stroke();
    return { pen, place };
  }

  function drawTrick() {
    const q = codes[state.picked];
    if (!q.logvar) return;
    const sigma = q.logvar.map((v) => Math.exp(v / 2)), [p, r] = state.axes;
    const shown = (v) => [v[p], r === null ? 0 : v[r]];
    const left = square($("eps-square"), HALF), at = left.place([0, 0]);
    const flat = { mu: q.mu.map(() => 0), logvar: q.mu.map(() => 0) };
    for (const radius of [1, 2, 3]) ellipse(left.pen, (v) => at(r === null ? [v[0], 0] : v), flat, radius, colour("line"));
    dots(left.pen, state.draws.map((eps) => at(shown(eps))));
    dot(left.pen, at(shown(state.eps)));
    const half = HALF * Math.max(sigma[p], r === null ? 0 : sigma[r]);
    const right = square($("z-square"), half), to = right.place(shown(q.mu));
    for (const radius of [1, 2, 3]) {
      ellipse(right.pen, (v) => to(r === null ? [v[0], 0] : v), q, radius, colour(radius < 3 ? "vermillion" : "line"));
    }
    dots(right.pen, state.draws.map((eps) => to(shown(network.reparameterize(q.mu, q.logvar, eps)))));
    dot(right.pen, to(shown(state.z)));
    const part = (kind, value) => {
      const element = document.createElement("span");
      element.className = kind;
      element.textContent = number(value, 2);
      return element;
    };
    $("formula").replaceChildren(...state.axes.filter((axis) => axis !== null).map((axis) => {
      const row = document.createElement("div");
      const eps = part("eps", state.eps[axis]);
      if (state.eps[axis] < 0) eps.textContent = `(${eps.textContent})`;
      row.append(`${name(axis)} = ${number(q.mu[axis], 2)} + ${number(sigma[axis], 2)} × `, eps, " = ", part("value", state.z[axis]));
      return row;
    }));
  }

  // The own drawing.

  const own = {
    width: 280, noise: network.uniform(1), eps: null,  // the pad's units; its noise
    pen: { place: [140, 140], down: false },  // the keyboard's
  };

  function drawOwn() {
    if (shape && state.model.encode) drawPad();
    show($("input"), state.noisy || state.own || new Float64Array(state.model.run.n_features));
    for (const id of ["noise", "clear"]) $(id).disabled = !state.own;
    measure();
  }

  function drawPad() {
    const canvas = $("pad"), n = canvas.clientWidth;
    const pen = base.context(canvas, n, n);
    canvas.style.width = canvas.style.height = "";
    pen.strokeStyle = pen.fillStyle = colour("ink");
    pen.lineWidth = n * 0.075;
    pen.lineCap = pen.lineJoin = "round";
    for (const stroke of state.strokes) {
      pen.beginPath();
      for (const [x, y] of stroke) pen.lineTo(x / own.width * n, y / own.width * n);
      if (stroke.length === 1) pen.arc(stroke[0][0] / own.width * n, stroke[0][1] / own.width * n, 0.1, 0, 2 * Math.PI);
      pen.stroke();
    }
    if (!canvas.matches(":focus-visible")) return;
    pen.lineWidth = 2;
    pen.strokeStyle = colour("blue");
    pen.beginPath();
    pen.arc(...own.pen.place.map((v) => v / own.width * n), n * (own.pen.down ? 0.02 : 0.045), 0, 2 * Math.PI);
    pen.stroke();
  }

  /** Lengthen the last stroke, or begin one, at a place in the pad's units. */
  function strokeTo(point, first) {
    if (first) state.strokes.push([]);
    const stroke = state.strokes.at(-1), last = stroke.at(-1);
    if (last && Math.hypot(last[0] - point[0], last[1] - point[1]) < 2) return;
    stroke.push(point);
    useOwn(network.rasterise(state.strokes, ...shape, 2 * shape[1] / own.width));
  }

  function penTo(down, place = own.pen.place) {
    const first = down && !own.pen.down;
    own.pen = { place: place.map((v) => Math.min(Math.max(v, 0), own.width)), down };
    if (down) strokeTo(own.pen.place, first); else drawPad();
  }

  function onPadKey(event) {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (move) {
      const step = own.width / (event.shiftKey ? 70 : 20);
      penTo(own.pen.down, own.pen.place.map((v, k) => v + step * move[k]));
    } else if (event.key === " ") {
      penTo(!own.pen.down);
      $("live").textContent = text(own.pen.down ? "pen_down" : "pen_up");
    } else return;
    event.preventDefault();
  }

  function useImage(i) {
    state.strokes = [];
    useOwn(images[i]);
  }

  /** Take x (D) as the drawing: its code goes into the plane, its reconstruction into the picture. */
  function useOwn(x) {
    state.own = x;
    state.noisy = null;
    afterOwn();
  }

  function afterOwn() {
    if (state.own && state.model.encode) goTo(state.model.encode(state.noisy || state.own).mu);
    drawOwn();
    redraw();
  }

  let measuring = 0;

  /** Show what the loss says of the drawing, once the hand rests: 64 decodings a time are too many for a frame. */
  function measure() {
    clearTimeout(measuring);
    const list = $("terms");
    if (!state.own || !state.model.encode) { list.replaceChildren(); return; }
    list.setAttribute("aria-busy", "true");
    measuring = setTimeout(() => {
      list.replaceChildren();
      list.setAttribute("aria-busy", "false");
      for (const [key, value] of Object.entries(ownTerms())) {
        const [term, figure] = [document.createElement("dt"), document.createElement("dd")];
        term.textContent = text(`term_${key}`);
        figure.textContent = key === "mse" ? number(value, 4) : text("nats", { value: number(value, 1) });
        if (key === "neg_elbo" || key === "mse") term.className = figure.className = "sum";
        figure.dataset.term = key;
        figure.dataset.value = value;
        list.append(term, figure);
      }
    }, 120);
  }

  function ownTerms() {
    const { model } = state, draw = network.uniform(64);  // the same ε for every drawing
    own.eps = Array.from({ length: DRAWS }, () => Array.from({ length: model.run.n_latent }, () => network.normal(draw)));
    if (!state.noisy) return model.terms(state.own, own.eps);
    const y = model.decode(model.encode(state.noisy).mu);
    return { mse: y.reduce((sum, value, i) => sum + (value - state.own[i]) ** 2, 0) / y.length };
  }

  // ------------------------------------------------------------------------------- the sliders

  function makeSliders() {
    const { run, vae } = state.model, many = run.n_latent > 2;
    $("latents").hidden = $("axes").hidden = !many;
    if (!many) { $("sliders").replaceChildren(); return; }
    const shown = state.all ? order : order.slice(0, FIRST);
    $("all-latents").hidden = shown.length === order.length;
    $("all-latents").textContent = text("more", { n: run.n_latent });
    const active = run.use.filter((use) => use > ACTIVE).length;
    $("latents-text").textContent = text(vae ? "latents_vae" : "latents_ae", { n: run.n_latent, active });
    $("sliders").replaceChildren(...shown.map((axis) => {
      const row = document.createElement("label"), [low, high] = run.ranges[axis];
      row.className = "slider";
      const values = codes.map(({ mu }) => mu[axis]).sort((p, q) => p - q);
      const at = (value) => `${100 * Math.min(Math.max((value - low) / (high - low), 0), 1)}%`;
      const [from, to] = [values[Math.floor(values.length * 0.025)], values[Math.floor(values.length * 0.975)]];
      const input = document.createElement("input");
      Object.assign(input, { type: "range", min: low, max: high, step: (high - low) / 400 });
      input.dataset.axis = axis;
      input.addEventListener("input", () => {
        state.z[axis] = Number(input.value);
        if (!state.axes.includes(axis)) scene.stale = $("show-decoded").checked;
        redraw();
      });
      const track = document.createElement("span"), band = document.createElement("span"), mine = document.createElement("span");
      track.className = "track";
      band.className = "band";
      mine.className = "band own";
      Object.assign(band.style, { left: at(from), width: `calc(${at(to)} - ${at(from)})` });
      track.append(input, band, mine);
      const use = document.createElement("span");
      use.className = "use";
      use.textContent = text(vae ? "use_vae" : "use_ae", { use: number(run.use[axis], 2) });
      row.append(name(axis), track, document.createElement("output"), use);
      row.place = at;
      return row;
    }));
    for (const k of [0, 1]) {
      $(`axis-${k}`).replaceChildren(...order.map((axis) => new Option(name(axis), axis, false, axis === state.axes[k])));
    }
  }

  function drawSliders() {
    const q = shownPosterior() || (state.model.vae ? codes[state.picked] : null);
    for (const row of $("sliders").children) {
      const input = row.querySelector("input"), axis = Number(input.dataset.axis), mine = row.querySelector(".own");
      input.value = state.z[axis];
      row.querySelector("output").textContent = number(state.z[axis], 2);
      mine.hidden = !q;
      if (!q) continue;
      const [from, to] = [-2, 2].map((k) => row.place(q.mu[axis] + k * Math.exp(q.logvar[axis] / 2)));
      Object.assign(mine.style, { left: from, width: `max(2px, calc(${to} - ${from}))` });
    }
  }

  // ------------------------------------------------------------------------------------ words

  /** Write all words anew: the language, the theme, the width or the model has changed. */
  function words() {
    const { run, vae, encode } = state.model;
    const widths = [run.n_features, ...run.hidden, run.n_latent, ...[...run.hidden].reverse(), run.n_features];
    $("about").textContent = text("about", {
      kind: text(`kind_${run.kind}`), widths: widths.join("–"), activation: run.activation, data: data.name, n: number(images.length),
    });
    $("runs").hidden = models.length < 2;
    $("run").max = models.length - 1;
    $("run").value = models.indexOf(state.model);
    const betas = models.every((model) => model.vae);
    $("run-name").textContent = betas ? text("run_beta", { beta: run.beta }) : `${text(`kind_${run.kind}`)}: ${run.name}`;
    $("run").setAttribute("aria-valuetext", $("run-name").textContent);
    const rounded = (value) => number(value, vae ? 1 : 4);
    $("run-figures").textContent = text(`run_${run.kind}`,
      Object.fromEntries(Object.entries(run.figures).map(([key, value]) => [key, rounded(value)])))
      + (run.binarized ? ` ${text("run_binarized")}` : "");
    $("run-text").textContent = betas ? text("run_text") : "";
    $("names-label").hidden = !data.labels;
    $("decoded-label").hidden = !shape;

    $("walk-prior").textContent = text(vae ? "walk_vae" : "walk_ae");
    $("sample").hidden = !vae;
    $("play").textContent = text(state.playing ? "pause" : "play");
    $("posterior-text").textContent = text(vae ? "posterior_vae" : "posterior_ae") + (vae && !encode ? ` ${text("posterior_missing")}` : "");
    $("trick").hidden = !vae;
    $("own-text").textContent = text(!encode ? "own_missing" : shape ? "own_text" : "own_no_image");
    const canDraw = Boolean(encode && shape);
    document.querySelector("#panel-own .squares").hidden = !canDraw;
    $("clear").hidden = !canDraw;
    $("test-image").hidden = $("terms").hidden = $("terms-text").hidden = !encode;
    $("noise").hidden = run.kind !== "dae" || !encode;
    const [, median, high] = run.typical.map((value) => rounded(value));
    $("terms-text").textContent = text(vae ? "terms_vae" : "terms_ae", { n: DRAWS, median, high })
      + (run.kind === "dae" ? ` ${text("terms_noisy")}` : "");
    for (const holder of document.querySelectorAll(".thumbs")) {
      holder.replaceChildren(...thumbs.map((i) => {
        const button = document.createElement("button"), canvas = document.createElement("canvas");
        Object.assign(button, { type: "button" });
        button.dataset.i = i;
        button.setAttribute("aria-label", title(i));
        button.setAttribute("aria-pressed", String(i === state.picked));
        button.addEventListener("click", () => pick(i));
        show(canvas, images[i]);
        button.append(canvas);
        return button;
      }));
    }
    makeSliders();
    scene.stale = true;
    showTool();
    render();
    say();
  }

  const title = (i) => data.labels
    ? text("image_class", { i: i + 1, name: data.classes[data.labels[i]] }) : text("image", { i: i + 1 });

  // -------------------------------------------------------------------------------- listeners

  /** Call `listener(place, first)` for each place where the pointer presses or is dragged on a canvas. */
  function dragged(canvas, listener) {
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left - canvas.clientLeft, event.clientY - box.top - canvas.clientTop];
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      canvas.setPointerCapture(event.pointerId);
      listener(place(event), true);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!canvas.hasPointerCapture(event.pointerId)) return;
      const between = event.getCoalescedEvents?.() ?? [];  // Safari has none, and a made-up event is one
      for (const each of between.length ? between : [event]) listener(place(each), false);
    });
  }

  /** The code nearest to a place in the plane, and how far away it is, in pixels. */
  function codeAt([x, y]) {
    let best = [0, Infinity];
    codes.forEach(({ mu }, i) => {
      const [px, py] = toScreen(across(mu, i)), far = Math.hypot(px - x, py - y);
      if (far < best[1]) best = [i, far];
    });
    return best;
  }

  let end = "a";  // the end of the path that is dragged

  function onPlane(place, first) {
    if (state.tool === "walk") goTo(movedTo(state.z, fromScreen(place)));
    else if (state.tool !== "path") pick(codeAt(place)[0]);
    else {
      const far = (z) => { const [x, y] = toScreen(across(z)); return Math.hypot(x - place[0], y - place[1]); };
      if (first) { pause(); end = far(state.a) < far(state.b) ? "a" : "b"; }
      state[end] = movedTo(state[end], fromScreen(place));
      drawStrips();
      along(end === "a" ? 0 : 1);
    }
  }

  function onKey(event) {
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowDown: [1, -1], ArrowUp: [1, 1] };
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key in moves) {
      const [k, sign] = moves[event.key], axis = state.axes[k], [low, high] = extent()[k];
      if (axis !== null) {
        const place = across(state.z);
        place[k] += sign * (high - low) / (event.shiftKey ? 400 : 50);
        goTo(movedTo(state.z, place));
      }
    } else if (event.key === "Home") middle();
    else if (event.key === "n" || event.key === "N") pick((state.picked + 1) % images.length);
    else if (event.key === " ") {
      if (state.tool === "path") play();
      else if (state.tool === "posterior" && state.model.vae) drawEps();
      else if (state.tool === "walk" && state.model.vae) samplePrior();
    } else return;
    event.preventDefault();
  }

  /** To z = 0, where the prior is densest, or to the mean of the codes where there is no prior. */
  function middle() {
    goTo(state.z.map((_, axis) => state.model.vae ? 0 : codes.reduce((sum, { mu }) => sum + mu[axis], 0) / codes.length));
  }

  function tip(event) {
    const box = $("plane").getBoundingClientRect(), place = [event.clientX - box.left, event.clientY - box.top];
    const [i, far] = codeAt(place);
    $("tip").hidden = event.pointerType !== "mouse" || event.buttons > 0 || far > 8 || !$("show-codes").checked;
    if ($("tip").hidden) return;
    show($("tip").querySelector("canvas"), images[i]);
    $("tip").querySelector("span").textContent = title(i);
    const right = place[0] > box.width / 2;
    Object.assign($("tip").style, {
      left: right ? "" : `${place[0] + 14}px`, right: right ? `${box.width - place[0] + 14}px` : "", top: `${Math.min(place[1] + 8, box.height - 64)}px`,
    });
  }

  function listen() {
    dragged($("plane"), onPlane);
    $("plane").addEventListener("keydown", onKey);
    $("plane").addEventListener("pointermove", tip);
    $("plane").addEventListener("pointerleave", () => { $("tip").hidden = true; });
    for (const id of ["show-codes", "show-names", "show-decoded"]) {
      $(id).addEventListener("change", () => { scene.stale = true; redraw(); });
    }
    for (const k of [0, 1]) {
      $(`axis-${k}`).addEventListener("change", (event) => {
        const axis = Number(event.target.value), other = state.axes[1 - k];
        if (axis === other) state.axes[1 - k] = state.axes[k];
        state.axes[k] = axis;
        scene.stale = true;
        words();
      });
    }
    $("all-latents").addEventListener("click", () => { state.all = true; makeSliders(); redraw(); });
    $("run").addEventListener("input", async (event) => { await take(Number(event.target.value)); words(); enter(); });
    TOOLS.forEach((tool, k) => {
      $(`tab-${tool}`).addEventListener("click", () => choose(tool));
      $(`tab-${tool}`).addEventListener("keydown", (event) => {
        const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (!step) return;
        const next = TOOLS[(k + step + TOOLS.length) % TOOLS.length];
        choose(next);
        $(`tab-${next}`).focus();
      });
    });
    $("sample").addEventListener("click", samplePrior);
    $("origin").addEventListener("click", middle);
    $("play").addEventListener("click", play);
    $("other").addEventListener("click", otherEnds);
    $("time").addEventListener("input", (event) => { pause(); along(Number(event.target.value)); });
    $("draw-eps").addEventListener("click", drawEps);
    $("zero-eps").addEventListener("click", () => takeEps(state.eps.map(() => 0)));
    $("picture").addEventListener("click", () => { if (state.tool === "posterior" && state.model.vae) drawEps(); });
    dragged($("eps-square"), ([x, y], first) => {
      if (!first) return;
      const n = $("eps-square").clientWidth, eps = state.eps.slice();
      const chosen = [(x / n - 0.5) * 2 * HALF, (0.5 - y / n) * 2 * HALF];
      state.axes.forEach((axis, k) => { if (axis !== null) eps[axis] = chosen[k]; });
      takeEps(eps);
    });
    dragged($("pad"), (place, first) => {
      own.pen.down = false;
      strokeTo(place.map((v) => v * own.width / $("pad").clientWidth), first);
    });
    $("pad").addEventListener("keydown", onPadKey);
    $("pad").addEventListener("focus", drawPad);
    $("pad").addEventListener("blur", () => penTo(false));
    $("clear").addEventListener("click", () => { state.strokes = []; state.own = state.noisy = null; afterOwn(); });
    $("test-image").addEventListener("click", () => pick(Math.floor(random() * images.length)));
    $("noise").addEventListener("click", () => {
      state.noisy = network.corrupt(state.model.run, state.own, own.noise);
      afterOwn();
    });
  }

  const ready = start().catch((error) => {
    document.querySelector("main").prepend(Object.assign(document.createElement("p"), { textContent: error.message, role: "alert" }));
    throw error;
  });
  return { state, ready, own, goTo, ownTerms, codes: () => codes, images: () => images };
})();
