"use strict";

(() => {
  const { run, frames, counts, ranks, classes, rows, terms, tile } = base.data;
  const [tileHeight, tileWidth] = tile;
  const COLUMNS = 10, GAP = 2;
  const element = (id) => document.getElementById(id);
  const slider = element("slider"), play = element("play");
  const points = frames.map(unpack);
  const span = range();
  let reading = base.data.state === "training";  // whether the page reloads itself
  let timer = null;  // of the animation
  let held = false;  // whether a finger or the mouse is on the slider

  // ----------------------------------------------------------------------------- the frames

  const inputs = base.data.inputs.map(picture);
  const sheets = frames.map((frame) => picture(frame.tiles));

  /** Load a PNG that is in the page; `show` again when it is there. */
  function picture(text) {
    const image = new Image();
    image.addEventListener("load", () => { if (image === sheets[+slider.value] || inputs.includes(image)) show(); });
    image.src = `data:image/png;base64,${text}`;
    return image;
  }

  /** Return the points [x, y, x, y, ...] of a frame. */
  function unpack({ points: packed, low, high }) {
    return Float64Array.from(base.decode(packed), (value, i) =>
      low[i % 2] + value / 65535 * (high[i % 2] - low[i % 2]));
  }

  /** Return the middle and half the side of what all frames' points need: it does not move. */
  function range() {
    const low = [0, 1].map((axis) => Math.min(...frames.map((frame) => frame.low[axis])));
    const high = [0, 1].map((axis) => Math.max(...frames.map((frame) => frame.high[axis])));
    const half = [0, 1].map((axis) => (high[axis] - low[axis]) / 2 || 1);
    const square = run.n_latent > 1 ? [Math.max(...half), Math.max(...half)] : half;
    return { middle: [0, 1].map((axis) => (low[axis] + high[axis]) / 2), half: square.map((h) => 1.06 * h) };
  }

  const epochName = (epoch) => epoch === 0 ? base.text("untrained")
    : base.text("epoch_of", { epoch, epochs: base.data.epochs });

  // ------------------------------------------------------------------------------- drawing

  /** Draw `count` tiles of a sheet from number `first` on, `columns` a row. */
  function drawTiles(canvas, sheet, first, count, columns, gap, label) {
    canvas.width = columns * (tileWidth + gap) - gap;
    canvas.height = Math.ceil(count / columns) * (tileHeight + gap) - gap;
    canvas.classList.add("pixels");
    canvas.setAttribute("aria-label", label);
    if (!sheet.complete || !sheet.naturalWidth) return;
    const drawing = canvas.getContext("2d");
    for (let i = 0; i < count; i++) {
      const from = first + i;
      drawing.drawImage(
        sheet, from % COLUMNS * tileWidth, Math.floor(from / COLUMNS) * tileHeight, tileWidth, tileHeight,
        i % columns * (tileWidth + gap), Math.floor(i / columns) * (tileHeight + gap), tileWidth, tileHeight,
      );
    }
  }

  function drawRows(sheet, epoch) {
    const names = ["input", ...(inputs.length > 1 ? ["corrupted"] : []), "output"];
    const holder = element("inputs");
    while (holder.children.length < 2 * names.length) {
      const canvas = document.createElement("canvas");
      canvas.setAttribute("role", "img");
      holder.append(document.createElement("p"), canvas);
    }
    names.forEach((name, i) => {
      const row = base.text(name);
      const label = base.text("row_label", { row, n: counts.shown, epoch });
      holder.children[2 * i].textContent = row;
      drawTiles(holder.children[2 * i + 1], inputs[i] || sheet, 0, counts.shown, COLUMNS, GAP, label);
    });
  }

  /** The side of a square drawing as wide as its place; a window may have no width yet. */
  const sideOf = (canvas) => Math.max(canvas.parentElement.clientWidth, 160);

  function drawCodes(frame, at, epoch) {
    const canvas = element("codes");
    const side = sideOf(canvas), inner = side - 8;
    const drawing = base.context(canvas, side, side);
    const x = (value) => 4 + inner * ((value - span.middle[0]) / span.half[0] + 1) / 2;
    const y = (value) => 4 + inner * (1 - (value - span.middle[1]) / span.half[1]) / 2;
    drawing.font = `12px ${getComputedStyle(document.body).fontFamily}`;
    drawing.strokeStyle = base.colour("line");
    drawing.fillStyle = base.colour("quiet");
    drawing.strokeRect(0.5, 0.5, side - 1, side - 1);
    drawing.save();
    drawing.beginPath();
    drawing.rect(1, 1, side - 2, side - 2);
    drawing.clip();
    if (run.n_latent === 2 && run.model === "vae") {
      for (const radius of [1, 2, 3]) {
        drawing.beginPath();
        drawing.arc(x(0), y(0), radius * inner / span.half[0] / 2, 0, 2 * Math.PI);
        drawing.stroke();
      }
    }
    if (run.n_latent < 3) {
      for (const [axis, at] of [[0, x], [1, y]].slice(0, run.n_latent)) {
        const marks = base.ticks(span.middle[axis] - span.half[axis], span.middle[axis] + span.half[axis], 5);
        for (const value of marks.values) {
          const text = base.number(value, marks.decimals);
          drawing.textAlign = axis ? "left" : "center";
          drawing.fillText(text, axis ? 6 : at(value), axis ? at(value) + 4 : side - 8);
        }
      }
    }
    drawing.globalAlpha = 0.8;
    for (let i = 0; i < ranks.length; i++) {
      drawing.fillStyle = classColour(ranks[i]);
      drawing.beginPath();
      drawing.arc(x(at[2 * i]), y(at[2 * i + 1]), 2.25, 0, 2 * Math.PI);
      drawing.fill();
    }
    drawing.globalAlpha = 1;
    if (frame.plane) {
      const [[left, bottom], [right, top]] = frame.plane;
      drawing.strokeStyle = base.colour("ink");
      drawing.setLineDash([4, 4]);
      drawing.strokeRect(x(left), y(top), x(right) - x(left), y(bottom) - y(top));
      drawing.setLineDash([]);
    }
    drawMarks(drawing, at, x, y);
    drawing.restore();

    const n = ranks.length;
    const key = run.n_latent > 2 ? "codes_many" : `codes_${run.n_latent}`;
    const [first, second] = frame.shares.map((share) => base.number(100 * share));
    const about = [base.text(key, { n, first, second })];
    if (run.n_latent === 2 && run.model === "vae") about.push(base.text("codes_rings"));
    element("codes-about").textContent = about.join(base.language() === "ja" ? "" : " ");
    canvas.setAttribute("aria-label", base.text("codes_label", { n, epoch }));
  }

  const classColour = (rank) => classes.length ? base.colour(`class-${rank % 10}`) : base.colour("blue");

  /** Write each class at the median of its points, or beside it: legible without colour. */
  function drawMarks(drawing, at, x, y) {
    const middle = (rank, axis) => {
      const own = ranks.flatMap((other, i) => other === rank ? [at[2 * i + axis]] : []);
      return own.sort((a, b) => a - b)[own.length >> 1];
    };
    const marks = classes.map((name, rank) => ({ name, rank, left: x(middle(rank, 0)), top: y(middle(rank, 1)) }))
      .filter((mark) => Number.isFinite(mark.left));
    apart(marks, 22);
    drawing.textAlign = "center";
    drawing.textBaseline = "middle";
    drawing.lineWidth = 2;
    for (const { name, rank, left, top } of marks) {
      drawing.beginPath();
      drawing.arc(left, top, 10, 0, 2 * Math.PI);
      drawing.fillStyle = base.colour("panel");
      drawing.fill();
      drawing.strokeStyle = classColour(rank);
      drawing.stroke();
      drawing.fillStyle = base.colour("ink");
      drawing.fillText(name, left, top + 1);
    }
    drawing.lineWidth = 1;
  }

  /** Push marks that are closer than `distance` apart. */
  function apart(marks, distance) {
    for (let round = 0; round < 50; round++) {
      marks.forEach((one, i) => {
        for (const other of marks.slice(i + 1)) {
          const across = other.left - one.left, down = other.top - one.top;
          const length = Math.hypot(across, down);
          if (length >= distance) continue;
          const [toRight, downwards] = length ? [across / length, down / length] : [Math.cos(i), Math.sin(i)];
          const push = (distance - length) / 2;
          one.left -= push * toRight;
          one.top -= push * downwards;
          other.left += push * toRight;
          other.top += push * downwards;
        }
      });
    }
  }

  function drawInside(frame, sheet, epoch) {
    element("plane").hidden = !frame.plane;
    element("bars").hidden = Boolean(frame.plane);
    if (frame.plane) {
      const [[left, bottom], [right, top]] = frame.plane.map((corner) => corner.map((value) => base.number(value, 1)));
      const n = counts.side ** 2;
      element("inside-title").textContent = base.text("plane");
      element("inside-about").textContent = base.text("plane_about", { left, bottom, right, top });
      drawTiles(element("plane"), sheet, counts.shown + counts.samples, n, counts.side, 0, base.text("plane_label", { n, epoch }));
      return;
    }
    const what = run.model === "vae" ? "kl" : "variance";
    element("inside-title").textContent = base.text(`${what}_bars`);
    element("inside-about").textContent = base.text(`${what}_about`, { active: frame.active, n: run.n_latent });
    drawBars(frame.spread, base.text("bars_label", {
      title: base.text(`${what}_bars`), epoch,
      largest: base.number(frame.spread[0], 3), smallest: base.number(frame.spread.at(-1), 3),
    }));
  }

  function drawBars(values, label) {
    const canvas = element("bars");
    const side = sideOf(canvas), left = 44, bottom = side - 8;
    const drawing = base.context(canvas, side, side);
    const most = Math.max(...frames.map((frame) => frame.spread[0])) || 1;
    const y = (value) => bottom - (bottom - 8) * value / most;
    drawing.font = `12px ${getComputedStyle(document.body).fontFamily}`;
    drawing.textAlign = "right";
    const marks = base.ticks(0, most, 5);
    for (const value of marks.values) {
      drawing.fillStyle = base.colour("line");
      drawing.fillRect(left, y(value), side - left, 1);
      drawing.fillStyle = base.colour("quiet");
      drawing.fillText(base.number(value, marks.decimals), left - 8, y(value) + 4);
    }
    drawing.fillStyle = base.colour("blue");
    const step = Math.min((side - left) / values.length, 40);
    values.forEach((value, i) => drawing.fillRect(left + step * (i + 0.1), y(value), step * 0.8, bottom - y(value)));
    canvas.setAttribute("aria-label", label);
  }

  function drawCurves(epoch) {
    const holder = element("curves");
    const names = Object.keys(terms).filter((name) => !name.startsWith("val_"));
    const order = ["neg_elbo", "loss", "reconstruction", "kl", "mse"].filter((name) => names.includes(name));
    while (holder.children.length < order.length) {
      const section = document.createElement("section");
      for (const tag of ["h2", "p", "div"]) section.append(document.createElement(tag));
      section.children[1].className = "values";
      holder.append(section);
    }
    order.forEach((name, i) => {
      const [heading, values, chart] = holder.children[i].children;
      const unit = document.createElement("span");
      unit.className = "quiet";
      unit.textContent = base.text(name === "mse" ? "a_pixel" : "nats");
      const decimals = name === "mse" ? 4 : 1;
      const title = base.text(name);
      const series = [
        { name: base.text("train"), colour: base.colour("blue"), values: terms[name] },
        { name: base.text("validation"), colour: base.colour("vermillion"), dash: "6 4", values: terms[`val_${name}`] },
      ].filter((line) => line.values);
      heading.replaceChildren(title, " ", unit);
      values.replaceChildren(...series.map((line) => legend(line, epoch, decimals)));
      base.lineChart(chart, { title, xs: rows, xlabel: base.text("epoch"), series, now: rows.includes(epoch) ? epoch : undefined, decimals });
    });
  }

  /** A line's colour, its name, and its value at this epoch. */
  function legend(line, epoch, decimals) {
    const item = document.createElement("span"), mark = document.createElement("span"), value = document.createElement("b");
    mark.className = line.dash ? "line dashed" : "line";
    mark.style.borderColor = line.colour;
    const at = rows.indexOf(epoch);
    value.textContent = at < 0 ? "" : base.number(line.values[at], decimals);
    item.append(mark, `${line.name} `, value);
    return item;
  }

  function drawState() {
    const { state, epoch, epochs, written } = base.data;
    const time = new Date(written).toLocaleTimeString(base.language(), { timeStyle: "short" });
    element("state").textContent = base.text(state === "training" && !reading ? "silent" : state, { epoch, epochs, time });
    const widths = [run.n_features, ...run.hidden, run.n_latent, ...[...run.hidden].reverse(), run.n_features].join("–");
    element("about").textContent = base.text("about", { model: base.text(run.model), widths, data: run.data });
    const kept = frames.filter((frame) => frame.epoch > 0).length;
    element("kept").textContent = !frames.length ? base.text("none")
      : base.text(kept < epoch ? "kept_some" : "kept", { kept, all: epoch });
    element("kept").hidden = frames.length > 0 && epoch === 0;
    element("samples-title").textContent = base.text("samples");
    element("samples-about").textContent = base.text(run.model === "vae" ? "samples_prior" : "samples_fitted", { n: counts.samples });
  }

  /** Draw the page for the frame that the slider stands at. */
  function show() {
    drawState();
    for (const part of document.querySelectorAll(".pictures, #dock")) part.hidden = !frames.length;
    const epoch = frames.length ? frames[+slider.value].epoch : rows.at(-1);
    element("curves").hidden = !rows.length;
    if (rows.length) drawCurves(epoch);
    play.textContent = base.text(timer ? "pause" : "play");
    if (!frames.length) return;
    const index = +slider.value, name = epochName(epoch);
    element("epoch").textContent = name;
    slider.setAttribute("aria-valuetext", name);
    drawRows(sheets[index], name);
    drawTiles(element("samples"), sheets[index], counts.shown, counts.samples, COLUMNS, GAP, base.text("row_label", { row: base.text("samples"), n: counts.samples, epoch: name }));
    drawCodes(frames[index], points[index], name);
    drawInside(frames[index], sheets[index], name);
  }

  // ------------------------------------------------------------------------------ moving

  /** Go to a frame; the address remembers it over a reload, unless it is the newest. */
  function go(index) {
    slider.value = index;
    base.toAddress("epoch", index === frames.length - 1 ? null : frames[index].epoch);
    show();
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    show();
  }

  function start() {
    if (+slider.value === frames.length - 1) go(0);
    timer = setInterval(() => {
      if (+slider.value >= frames.length - 1) stop(); else go(+slider.value + 1);
    }, Math.max(100, Math.min(500, 10000 / frames.length)));
    show();
  }

  play.addEventListener("click", () => { if (timer) stop(); else start(); });
  slider.addEventListener("input", () => { if (timer) stop(); go(+slider.value); });
  slider.addEventListener("pointerdown", () => { held = true; });
  for (const name of ["pointerup", "pointercancel"]) addEventListener(name, () => { held = false; });

  slider.max = Math.max(frames.length - 1, 0);
  const kept = base.fromAddress("epoch");
  const index = frames.findLastIndex((frame) => kept === null || frame.epoch <= +kept);
  slider.value = Math.max(index, 0);

  // --------------------------------------------------------------------- while it is trained

  /** Reload in about the time of an epoch, but neither under the reader's hand nor out of sight. */
  function reload() {
    const { written, seconds } = base.data;
    const silence = (Date.now() - written) / 1000;
    if (Math.abs(silence) > 60 + 5 * (seconds === null ? 120 : seconds)) {
      reading = false;
      show();
    } else if (held || timer || document.hidden) {
      setTimeout(reload, 500);
    } else {
      base.toAddress("focus", document.activeElement.id || null);
      location.reload();
    }
  }

  const focused = base.fromAddress("focus");
  if (focused) {
    base.toAddress("focus", null);
    document.getElementById(focused)?.focus({ preventScroll: true });
  }
  if (reading) setTimeout(reload, 1000 * Math.max(1, Math.min(base.data.seconds || 2, 30)));
  base.draw(show);
})();
