/** The model in the page: the layers of scratchvae/layers.py and losses.py, forward only, one row at a time. */
const network = (() => {
  const LOG_2PI = Math.log(2 * Math.PI);
  const sigmoid = (x) => {
    const t = Math.exp(-Math.abs(x));
    return (x >= 0 ? 1 : t) / (1 + t);
  };
  const activations = { relu: (x) => Math.max(x, 0), tanh: Math.tanh, sigmoid };

  // ------------------------------------------------------------------------------- unpacking

  /** Unpack what Python's `pack` made: typed arrays by name, each with its `shape`. */
  async function unpack({ arrays, block }) {
    const packed = Uint8Array.from(atob(block), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    const buffer = await new Response(stream).arrayBuffer();
    const kinds = { Uint8Array, Float32Array };
    const views = {};
    for (const [name, { kind, shape, start }] of Object.entries(arrays)) {
      const length = shape.reduce((a, b) => a * b, 1);
      views[name] = Object.assign(new kinds[kind](buffer, start, length), { shape });
    }
    return views;
  }

  /** W (I, O) as Python's `quantise` stored it: whole numbers in planes of bytes, times a scale a column. */
  function matrix(views, name) {
    if (views[name]) return views[name];
    const planes = views[`${name}.planes`], scale = views[`${name}.scale`];
    const [count, inputs, outputs] = planes.shape;
    const size = inputs * outputs, half = 2 ** (8 * count - 1);
    const W = new Float32Array(size);
    for (let i = 0; i < size; i++) {
      let whole = 0;
      for (let plane = 0; plane < count; plane++) whole = whole * 256 + planes[plane * size + i];
      W[i] = (whole - half) * scale[i % outputs];
    }
    return W;
  }

  /** A function from a row to a row: dense layers and activations, one after another. */
  function sequential(names, views, prefix) {
    const layers = names.map((name, i) => name === "dense"
      ? dense(matrix(views, `${prefix}.${i}.W`), views[`${prefix}.${i}.b`])
      : (x) => x.map(activations[name]));
    return (x) => layers.reduce((row, layer) => layer(row), x);
  }

  /** y = x W + b. Row i of W counts only where x_i is not 0: most pixels are, and half of a ReLU's outputs. */
  function dense(W, b) {
    const outputs = b.length;
    return (x) => {
      const y = Float64Array.from(b);
      for (let i = 0, at = 0; i < x.length; i++, at += outputs) {
        const value = x[i];
        if (value !== 0) for (let j = 0; j < outputs; j++) y[j] += value * W[at + j];
      }
      return y;
    };
  }

  // ------------------------------------------------------------------------------- the model

  /** The run `run` of the page's data as functions of rows: encode, decode, terms. */
  async function open(run) {
    const weights = await unpack(run.decoder);
    const decoder = sequential(run.decoder.layers, weights, "decoder");
    const features = run.n_features;
    const bernoulli = run.likelihood === "bernoulli";
    const model = { run, vae: run.kind === "vae" };

    /** The mean of p(x|z), or an autoencoder's y: (D). */
    model.decode = (z) => mean(decoder(Float64Array.from(z)));
    function mean(output) {
      return bernoulli ? output.map(sigmoid) : output.slice(0, features);
    }

    if (run.encoder) {
      const views = await unpack(run.encoder);
      const encoder = sequential(run.encoder.layers, views, "encoder");
      const head = (name) => dense(matrix(views, `${name}.W`), views[`${name}.b`]);
      if (model.vae) {
        const toMu = head("to_mu"), toLogvar = head("to_logvar");
        model.encode = (x) => {
          const h = encoder(x);
          return { mu: toMu(h), logvar: toLogvar(h) };
        };
      } else {
        model.encode = (x) => ({ mu: encoder(x) });
      }
    }

    /** −log p(x|z) in nats, summed over the features. */
    function nll(output, x) {
      let sum = 0;
      for (let i = 0; i < features; i++) {
        if (bernoulli) {
          const l = output[i];
          sum += ((l >= 0 ? 1 : 0) - x[i]) * l + Math.log1p(Math.exp(-Math.abs(l)));
        } else {
          const v = run.sigma === "learned" ? output[features + i] : 2 * Math.log(run.sigma);
          const r = (output[i] - x[i]) * Math.exp(v / -2);
          sum += (r * r + v + LOG_2PI) / 2;
        }
      }
      return sum;
    }

    /** What the loss says of x: reconstruction (averaged over the rows of eps), kl and neg_elbo; or mse. */
    model.terms = (x, eps) => {
      const { mu, logvar } = model.encode(x);
      if (!model.vae) {
        const y = model.decode(mu);
        return { mse: y.reduce((sum, value, i) => sum + (value - x[i]) ** 2, 0) / features };
      }
      let kl = 0, reconstruction = 0;
      mu.forEach((m, i) => { kl += (m * m + Math.expm1(logvar[i]) - logvar[i]) / 2; });
      for (const row of eps) reconstruction += nll(decoder(reparameterize(mu, logvar, row)), x) / eps.length;
      return { reconstruction, kl, neg_elbo: reconstruction + kl };
    };
    return model;
  }

  /** z = mu + sigma * eps. */
  const reparameterize = (mu, logvar, eps) => mu.map((m, i) => m + Math.exp(logvar[i] / 2) * eps[i]);

  // -------------------------------------------------------------------------------- the noise

  /** A generator of U(0, 1) from a seed: the same noise in every browser (mulberry32, T. Ettinger). */
  function uniform(seed) {
    let state = seed >>> 0;
    return () => {
      state = (state + 0x6D2B79F5) >>> 0;
      let t = Math.imul(state ^ (state >>> 15), state | 1);
      t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
      return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
    };
  }

  /** N(0, 1) from U(0, 1), by Box and Muller. */
  const normal = (random) => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());

  /** x as a DAE's training corrupts it (models.py, `corrupt`). */
  function corrupt(run, x, random) {
    if (run.corruption === "gaussian") {
      const noisy = x.map((value) => value + run.sigma * normal(random));
      return run.clip ? noisy.map((value) => Math.min(Math.max(value, 0), 1)) : noisy;
    }
    return x.map((value) => {
      const u = random();
      if (u >= run.fraction) return value;
      return run.corruption === "salt_and_pepper" && u < run.fraction / 2 ? 1 : 0;
    });
  }

  // ------------------------------------------------------------------------------- own strokes

  const PEN = 2.6, EDGE = 1.5;  // pixels: a stroke's width, and how wide its edge fades

  /**
   * Pixels (height, width) of strokes, which are lists of points [x, y] of any unit: scaled into a box of 20 / 28 of
   * the image and moved until the centre of mass is in the middle, as MNIST's digits were. `most` is the largest scale.
   */
  function rasterise(strokes, height, width, most) {
    const x = new Float64Array(height * width), points = strokes.flat();
    if (!points.length) return x;
    const xs = points.map((p) => p[0]), ys = points.map((p) => p[1]);
    const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const box = Math.min(height, width) * 20 / 28 - PEN;
    const scale = Math.min(most, box / Math.max(right - left, bottom - top, 1e-9));
    const moved = (dx, dy) => strokes.map((stroke) => stroke.map(([px, py]) => [
      (px - (left + right) / 2) * scale + width / 2 + dx, (py - (top + bottom) / 2) * scale + height / 2 + dy]));
    ink(x, moved(0, 0), height, width);
    let mass = 0, mx = 0, my = 0;
    x.forEach((value, i) => { mass += value; mx += value * (i % width + 0.5); my += value * (Math.floor(i / width) + 0.5); });
    x.fill(0);
    ink(x, moved(Math.round(width / 2 - mx / mass), Math.round(height / 2 - my / mass)), height, width);
    return x.map((value) => Math.round(value * 255) / 255);
  }

  /** Each pixel by the distance of its centre from the nearest stroke. */
  function ink(x, strokes, height, width) {
    const reach = PEN / 2 + EDGE;
    for (const stroke of strokes) {
      stroke.forEach((to, i) => {
        const from = stroke[Math.max(i - 1, 0)];
        const dx = to[0] - from[0], dy = to[1] - from[1], square = dx * dx + dy * dy;
        const span = (a, b, most) => [Math.max(0, Math.floor(Math.min(a, b) - reach)), Math.min(most - 1, Math.ceil(Math.max(a, b) + reach))];
        const [left, right] = span(from[0], to[0], width), [top, bottom] = span(from[1], to[1], height);
        for (let row = top; row <= bottom; row++) {
          for (let column = left; column <= right; column++) {
            const px = column + 0.5 - from[0], py = row + 0.5 - from[1];
            const t = square ? Math.min(Math.max((px * dx + py * dy) / square, 0), 1) : 0;
            const far = Math.hypot(px - t * dx, py - t * dy);
            const value = Math.min(Math.max((PEN / 2 - far) / EDGE + 0.5, 0), 1), at = row * width + column;
            if (value > x[at]) x[at] = value;
          }
        }
      });
    }
  }

  return { open, unpack, reparameterize, uniform, normal, corrupt, rasterise };
})();
