"""Every figure of the package, and the only file that imports matplotlib.

Each function takes host NumPy arrays and returns a `Figure`; `save` writes it. pyplot is never
imported, and the house style is set on each artist: rcParams and backend are global, and belong to
the user. So figures need no display and may be made in several threads.

Shapes by letter: N images or codes, D features, L latents. Images are (N, D) or (N, height,
width), on the fixed scale 0 (black) to 1 (white); what lies outside is clipped. Where `image_shape`
is not given, D features are laid out row by row in the rectangle nearest to a square.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from scratchvae.files import atomic_write

Floats = npt.NDArray[np.float64]

DPI = 150
FONT = "DejaVu Sans"
TITLE, LABEL, SMALL = 13, 11, 9.5
INK, FAINT = "#222222", "#DDDDDD"
# M. Okabe and K. Ito, "Color Universal Design" (2008): the blue and the vermillion.
BLUE, VERMILLION = "#0072B2", "#D55E00"
# P. Tol, "Colour Schemes" (2021), scheme "muted", and black: ten colours for ten digits.
CLASS_COLOURS = (
    "#332288", "#88CCEE", "#44AA99", "#117733", "#999933",
    "#DDCC77", "#CC6677", "#882255", "#AA4499", "#000000",
)  # fmt: skip
MAX_CLASSES = 20
ACTIVE_NATS = 0.01

# Column of a history: heading, unit, decimals.
TERMS = {
    "neg_elbo": ("Negative ELBO", "nats an image", 1),
    "loss": ("Objective: reconstruction + β KL", "nats an image", 1),
    "reconstruction": ("Reconstruction", "nats an image", 1),
    "kl": ("KL divergence", "nats an image", 1),
    "mse": ("Reconstruction error", "MSE a pixel", 4),
}


# ---------------------------------------------------------------------------- house style


def new_figure(
    width: float, height: float, *, title: str = "", rows: int = 1, columns: int = 1
) -> tuple[Figure, list[Axes]]:
    """A white figure (inches) in the house style, and its axes row by row.

    `title` stands above all of them.
    """
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    if title:
        figure.suptitle(title, fontsize=TITLE + 1, fontfamily=FONT, color=INK, weight="bold")
    n = rows * columns
    axes = [figure.add_subplot(rows, columns, i + 1, facecolor="white") for i in range(n)]
    return figure, axes


def style(ax: Axes, *, title: str = "", xlabel: str = "", ylabel: str = "") -> None:
    """Give an axes its words and the house's fonts, ticks and spines."""
    ax.set_title(title, fontsize=TITLE, fontfamily=FONT, color=INK, pad=8)
    ax.set_xlabel(xlabel, fontsize=LABEL, fontfamily=FONT, color=INK)
    ax.set_ylabel(ylabel, fontsize=LABEL, fontfamily=FONT, color=INK)
    ax.tick_params(labelsize=SMALL, labelfontfamily=FONT, color=INK, labelcolor=INK)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(INK)
    ax.set_axisbelow(True)


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write the figure as a PNG, atomically: `path` is the whole picture or what it was before.

    The folder is made if it is missing. The figure stays usable; outside pyplot there is nothing to
    close. Raises ValueError for a name that does not end in .png, OSError where it cannot write.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"path: got {path.name!r}, figures are PNG files: end the name in .png")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=DPI)
    return path


# ------------------------------------------------------------------------------- training


def curves(history: Mapping[str, Sequence[float]], *, title: str = "Training") -> Figure:
    """The terms of the loss by epoch, one panel a term, training and validation together.

    `history` maps a column to its values: `epoch` (1, 2, ... where it is missing), `neg_elbo`,
    `reconstruction`, `kl` (nats an image) or `mse` (a pixel), each with or without its `val_` twin.
    `loss` gets a panel only where it is no other column's twin (a VAE with beta other than 1).
    Columns of other names are left alone. Values that are not finite leave a gap.

    Raises ValueError where no term is known, or columns are empty or differ in length.
    """
    terms = [name for name in TERMS if name in history or f"val_{name}" in history]
    if not terms:
        raise ValueError(f"history: no known term among {list(history)}; want one of {list(TERMS)}")
    known = ["epoch", *terms, *(f"val_{name}" for name in terms)]
    columns = {k: np.asarray(history[k], dtype=np.float64) for k in known if k in history}
    shapes = {name: values.shape for name, values in columns.items()}
    n_epochs = min(values.size for values in columns.values())
    if n_epochs == 0 or set(shapes.values()) != {(n_epochs,)}:
        raise ValueError(f"history: columns want one length of at least 1, got shapes {shapes}")
    if "loss" in columns:
        twins = (columns[name] for name in ("neg_elbo", "mse") if name in columns)
        if any(np.allclose(columns["loss"], twin, rtol=1e-5, equal_nan=True) for twin in twins):
            terms.remove("loss")

    epochs = _vector("history['epoch']", columns.get("epoch", np.arange(1.0, n_epochs + 1)))
    single = len(terms) == 1
    figure, axes = new_figure(
        max(4.1 * len(terms), 6.0), 4.2, title="" if single else title, columns=len(terms)
    )
    for ax, term in zip(axes, terms, strict=True):
        heading, unit, decimals = TERMS[term]
        if term == "loss" and not {"reconstruction", "kl"} <= {*terms}:
            heading, unit = "Loss", "mean of the epoch"  # of a model that is none of ours
        for prefix, name, colour, line, marker in (
            ("", "training", BLUE, "-", "o"),
            ("val_", "validation", VERMILLION, "--", "s"),
        ):
            if (values := columns.get(prefix + term)) is None:
                continue
            ax.plot(
                epochs,
                np.where(np.isfinite(values), values, np.nan),
                color=colour,
                linestyle=line,
                linewidth=1.8,
                marker=marker,
                markersize=4.0 if n_epochs <= 30 else 2.0,
                markerfacecolor=colour if not prefix else "white",
                label=f"{name}, last {values[-1]:.{decimals}f}",
            )
        style(
            ax,
            title=title if single else heading,
            xlabel="epoch",
            ylabel=f"{heading}, {unit}" if single else unit,
        )
        ax.grid(color=FAINT, linewidth=0.8)
        margin = max(0.5, 0.03 * float(np.ptp(epochs)))
        ax.set_xlim(epochs.min() - margin, epochs.max() + margin)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
        ax.legend(frameon=False, labelcolor=INK, prop={"family": FONT, "size": LABEL - 1})
    return figure


# --------------------------------------------------------------------------------- images


def image_rows(
    rows: Mapping[str, npt.ArrayLike],
    *,
    image_shape: tuple[int, int] | None = None,
    title: str,
    errors: npt.ArrayLike | None = None,
    error_label: str = "MSE a pixel",
) -> Figure:
    """Named rows of images, all (N, D): column n shows what each row makes of the same image n.

    `errors` (N,) are written below the columns.
    """
    if not rows:
        raise ValueError("rows: got none, want at least one row of images")
    named = {name: _tiles(name, images, image_shape) for name, images in rows.items()}
    shapes = {name: tiles.shape for name, tiles in named.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"rows: want images of one number and shape, got {shapes}")
    tiles = np.stack(list(named.values()))
    values = None if errors is None else _vector("errors", errors, tiles.shape[1])

    names = max(len(name) for name in named)
    figure, ax, x, y = _picture(
        tiles, title=title, xlabel="" if values is None else error_label, side=0.1 + 0.105 * names
    )
    ax.set_yticks(y, list(named), fontsize=LABEL)
    if values is not None:
        largest = float(np.abs(values).max())
        decimals = max(0, 2 - math.floor(math.log10(largest))) if largest > 0 else 0
        texts = [f"{v:.{decimals}f}" for v in values]
        crowded = 0.085 * max(map(len, texts)) * len(texts) > _WIDEST
        ax.set_xticks(x, texts, rotation=90 if crowded else 0)
    return figure


def reconstructions(
    originals: npt.ArrayLike,
    reconstructed: npt.ArrayLike,
    *,
    noisy: npt.ArrayLike | None = None,
    errors: npt.ArrayLike | None = None,
    error_label: str = "MSE a pixel",
    image_shape: tuple[int, int] | None = None,
    title: str = "Reconstructions",
) -> Figure:
    """Originals over what the model makes of them, the `noisy` input between where there is one.

    All images (N, D); `errors` (N,) are written below.
    """
    rows = {"original": originals}
    if noisy is not None:
        rows["corrupted"] = noisy
    rows["reconstruction"] = reconstructed
    return image_rows(
        rows, image_shape=image_shape, title=title, errors=errors, error_label=error_label
    )


def image_grid(
    images: npt.ArrayLike,
    *,
    image_shape: tuple[int, int] | None = None,
    title: str = "Samples",
    columns: int | None = None,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> Figure:
    """Images (N, D) in a grid, row by row; about as many columns as rows where not told.

    `value_range` gives the values of black and white, for what is no image: (-a, a) for weights.
    """
    tiles = _tiles("images", images, image_shape)
    n, height, width = tiles.shape
    n_columns = math.ceil(math.sqrt(n)) if columns is None else min(columns, n)
    if n_columns < 1:
        raise ValueError(f"columns: got {columns}, want at least 1")
    n_rows = math.ceil(n / n_columns)
    grid = np.full((n_rows * n_columns, height, width), np.nan)
    grid[:n] = tiles

    tiled = grid.reshape(n_rows, n_columns, height, width)
    return _picture(tiled, title=title, value_range=value_range)[0]


def interpolation(
    paths: npt.ArrayLike,
    *,
    ends: Sequence[tuple[object, object]] | None = None,
    image_shape: tuple[int, int] | None = None,
    title: str = "Interpolation between two codes",
) -> Figure:
    """Rows of decoded images (P, T, D): row p goes from one image to another in T even steps.

    `ends` names both ends of each row, say the digits [(3, 8), ...].
    """
    array = np.asarray(paths)
    if array.ndim not in (3, 4) or 0 in array.shape:
        raise ValueError(f"paths: got shape {array.shape}, want (paths, steps, features)")
    n_paths, n_steps = array.shape[:2]
    if ends is not None and len(ends) != n_paths:
        raise ValueError(f"ends: got {len(ends)} pairs for {n_paths} paths")
    tiles = _tiles("paths", array.reshape(n_paths * n_steps, *array.shape[2:]), image_shape)
    height, width = tiles.shape[1:]

    figure, ax, x, y = _picture(
        tiles.reshape(n_paths, n_steps, height, width),
        title=title,
        xlabel="position on the line between the codes",
        side=0.5,
    )
    positions = np.linspace(0, 1, min(n_steps, 5))
    ax.set_xticks(x[0] + positions * (x[-1] - x[0]), [f"{t:.2g}" for t in positions])
    if ends is not None:
        ax.set_yticks(y, [str(first) for first, _ in ends], fontsize=TITLE)
        right = ax.secondary_yaxis("right")
        right.set_yticks(y, [str(last) for _, last in ends])
        right.tick_params(length=0, labelsize=TITLE, labelfontfamily=FONT, labelcolor=INK)
        right.spines[:].set_visible(False)
    return figure


# --------------------------------------------------------------------------- latent space


def scatter_codes(
    codes: npt.ArrayLike,
    labels: npt.ArrayLike | None = None,
    *,
    axis_labels: tuple[str, str] = ("z₁", "z₂"),
    label_name: str = "digit",
    title: str = "Codes of the images",
) -> Figure:
    """Codes (N, 2) in the plane, coloured by `labels` (N,), each class named at its median.

    More than 20 classes cannot be told apart: their points are drawn alike.
    """
    points = _matrix("codes", codes)
    if points.shape[1] != 2:
        raise ValueError(f"codes: got shape {points.shape}, want (N, 2): project them first")
    rank, classes = class_ranks(labels, len(points))
    figure, (ax,) = new_figure(7.2, 6.0)
    _scatter(ax, points, rank)
    if classes:
        _name_classes(ax, points, rank, classes, label_name)
    style(ax, title=title, xlabel=axis_labels[0], ylabel=axis_labels[1])
    return figure


def manifold(
    images: npt.ArrayLike,
    z1: npt.ArrayLike,
    z2: npt.ArrayLike,
    *,
    image_shape: tuple[int, int] | None = None,
    title: str = "Decoded latent plane",
) -> Figure:
    """What the decoder makes of each point of a grid in a 2-D latent space.

    `z1` (n1,) and `z2` (n2,) rise; `images` (n2 * n1, D) decode
    `np.stack(np.meshgrid(z1, z2), axis=-1).reshape(-1, 2)`. z2 points up.
    """
    figure, (ax,) = new_figure(6.6, 6.8)
    _manifold(ax, images, z1, z2, image_shape)
    style(ax, title=title, xlabel="z₁", ylabel="z₂")
    return figure


def latent(
    codes: npt.ArrayLike,
    labels: npt.ArrayLike | None = None,
    *,
    kl: npt.ArrayLike | None = None,
    decoded: tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike] | None = None,
    image_shape: tuple[int, int] | None = None,
    label_name: str = "digit",
    title: str = "Latent space",
) -> Figure:
    """The latent space of a run at a glance: where the codes (N, L) lie, and what the space holds.

    Left, the codes: as they are for L = 2, by class for L = 1, else on the first two principal
    components. Right, for L = 2 and `decoded` = (images, z1, z2) as for `manifold`, the decoded
    plane; otherwise the latents sorted by `kl` (L,), the mean KL of each in nats, or, without `kl`,
    by the variance of their codes. A latent is in use above 0.01 nats.
    """
    points = _matrix("codes", codes)
    n_latent = points.shape[1]
    if decoded is not None and n_latent != 2:
        raise ValueError(f"decoded: a plane wants 2 latents, codes have {n_latent}")
    figure, (left, right) = new_figure(13.0, 6.2, title=title, columns=2)
    rank, classes = class_ranks(labels, len(points))
    heading = "Codes of the images"
    names = ("z₁", "z₂")
    if n_latent == 1:
        jitter = np.random.default_rng(0).uniform(-0.35, 0.35, len(points))
        _scatter(left, np.column_stack([points[:, 0], rank + jitter]), rank)
        left.set_aspect("auto")
        left.set_yticks(range(len(classes)), classes)
        names = ("z₁", label_name if classes else "")
    else:
        if n_latent > 2:
            points, (first, second) = principal(points)
            names = (
                f"principal component 1 ({first:.0%} of variance)",
                f"principal component 2 ({second:.0%} of variance)",
            )
        _scatter(left, points, rank)

    if decoded is not None:
        images, z1, z2 = (np.asarray(part) for part in decoded)
        _manifold(right, images, z1, z2, image_shape)
        style(right, title="Decoded plane", xlabel="z₁", ylabel="z₂")
        box = Rectangle((z1[0], z2[0]), z1[-1] - z1[0], z2[-1] - z2[0])
        box.set(fill=False, edgecolor=INK, linestyle="--", linewidth=1.4)
        left.add_patch(box)
        heading += " (dashed: the plane at right)"
    elif kl is not None:
        nats = _vector("kl", kl, n_latent)
        active = int((nats > ACTIVE_NATS).sum())
        _bars(right, nats)
        style(
            right,
            title=f"KL by latent: {active} of {n_latent} in use (above {ACTIVE_NATS:g} nats)",
            xlabel="latent, sorted",
            ylabel="mean KL, nats",
        )
    else:
        _bars(right, np.asarray(codes, dtype=np.float64).var(axis=0))
        style(right, title="Variance by latent", xlabel="latent, sorted", ylabel="variance of code")
    if classes and n_latent > 1:
        _name_classes(left, points, rank, classes, label_name)
    style(left, title=heading, xlabel=names[0], ylabel=names[1])
    return figure


# ---------------------------------------------------------------------- parts of a figure


_WIDEST = 9.0  # inches that a row of images may take


def _picture(
    tiles: Floats,
    *,
    title: str,
    xlabel: str = "",
    side: float = 0.0,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> tuple[Figure, Axes, Floats, Floats]:
    """A figure as large as its tiles (R, C, height, width), with `side` inches for row labels."""
    n_rows, n_columns, height, width = tiles.shape
    aspect = height / width
    tile = min(0.85, _WIDEST / n_columns, _WIDEST / (n_rows * aspect))
    words = 0.105 * max(len(line) for text in (title, xlabel) for line in text.split("\n"))
    figure, (ax,) = new_figure(
        0.3 + side + max(tile * n_columns, words),
        (1.1 if xlabel else 0.6) + tile * n_rows * aspect,
    )
    x, y = _draw(ax, tiles, gap=max(1, round(max(height, width) / 14)), value_range=value_range)
    style(ax, title=title, xlabel=xlabel)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return figure, ax, x, y


def _draw(
    ax: Axes, tiles: Floats, *, gap: int = 0, value_range: tuple[float, float] = (0.0, 1.0)
) -> tuple[Floats, Floats]:
    """Draw tiles (R, C, height, width) as one image; return the centres of columns and rows."""
    n_rows, n_columns, height, width = tiles.shape
    padded = np.pad(tiles, ((0, 0), (0, 0), (0, gap), (0, gap)), constant_values=np.nan)
    image = padded.transpose(0, 2, 1, 3).reshape(n_rows * (height + gap), -1)
    ax.imshow(
        image[: len(image) - gap, : image.shape[1] - gap],
        cmap=matplotlib.colormaps["gray"].with_extremes(bad="white"),
        vmin=value_range[0],
        vmax=value_range[1],
        interpolation="nearest",
        origin="upper",
    )
    x = np.arange(n_columns) * (width + gap) + (width - 1) / 2
    y = np.arange(n_rows) * (height + gap) + (height - 1) / 2
    return x, y


def _manifold(
    ax: Axes,
    images: npt.ArrayLike,
    z1: npt.ArrayLike,
    z2: npt.ArrayLike,
    image_shape: tuple[int, int] | None,
) -> None:
    tiles = _tiles("images", images, image_shape)
    first, second = _vector("z1", z1), _vector("z2", z2)
    if len(tiles) != len(first) * len(second):
        raise ValueError(f"images: got {len(tiles)} for {len(second)} z2 times {len(first)} z1")
    for name, values in (("z1", first), ("z2", second)):
        if np.any(np.diff(values) <= 0):
            raise ValueError(f"{name}: the values of the grid must rise")
    grid = tiles.reshape(len(second), len(first), *tiles.shape[1:])
    x, y = _draw(ax, grid[::-1])
    # Round values of z, placed between the tiles: right for even and for uneven grids.
    for axis, values, centres in ((ax.xaxis, first, x), (ax.yaxis, second, y[::-1])):
        rounded = MaxNLocator(6).tick_values(values[0], values[-1])
        rounded = rounded[(rounded >= values[0]) & (rounded <= values[-1])]
        axis.set_ticks(
            np.interp(rounded, values, centres), [f"{v:g}".replace("-", "−") for v in rounded]
        )


def _scatter(ax: Axes, points: Floats, rank: npt.NDArray[np.intp]) -> None:
    # One call, in the order given: drawn class after class, the last would hide the others.
    ax.scatter(
        points[:, 0],
        points[:, 1],
        s=float(np.clip(12000 / len(points), 3, 40)),
        c=[_class_colour(i) for i in rank],
        alpha=0.75,
        linewidths=0,
    )
    ax.set_aspect("equal", adjustable="datalim")
    ax.grid(color=FAINT, linewidth=0.8)


def _name_classes(
    ax: Axes, points: Floats, rank: npt.NDArray[np.intp], classes: list[str], label_name: str
) -> None:
    """A legend, and each class's mark at the median of its points: legible without colour.

    The mark is the name or, where names are long, a number that the legend explains.
    """
    if max(map(len, classes)) <= 2:
        marks = entries = classes
    else:
        marks = [str(i) for i in range(len(classes))]
        entries = [f"{mark}  {name}" for mark, name in zip(marks, classes, strict=True)]
    colours = [_class_colour(i) for i in range(len(classes))]
    legend = ax.legend(
        [Line2D([], [], color=c, marker="o", markersize=7, linestyle="") for c in colours],
        entries,
        title=label_name,
        title_fontproperties={"family": FONT, "size": LABEL},
        prop={"family": FONT, "size": LABEL},
        labelcolor=INK,
        frameon=False,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        handletextpad=0.1,
    )
    legend.get_title().set_color(INK)
    medians = np.stack([np.median(points[rank == i], axis=0) for i in range(len(classes))])
    span = max(ax.dataLim.width, ax.dataLim.height)
    for (x, y), mark, colour in zip(_apart(medians, 0.07 * span), marks, colours, strict=True):
        ax.text(
            x,
            y,
            mark,
            color=INK,
            fontsize=TITLE,
            fontfamily=FONT,
            weight="bold",
            ha="center",
            va="center",
            bbox={"boxstyle": "circle,pad=0.2", "fc": "white", "ec": colour, "lw": 2.2},
        )


def _class_colour(rank: int) -> str:
    return CLASS_COLOURS[rank % len(CLASS_COLOURS)]


def _apart(points: Floats, distance: float) -> Floats:
    """Push points (N, 2) that are closer than `distance` apart, so that labels do not overlap."""
    points = points.copy()
    for _ in range(100):
        for i, j in itertools.combinations(range(len(points)), 2):
            step = points[j] - points[i]
            length = float(np.hypot(*step))
            if length < distance:
                direction = step / length if length > 0 else np.array([1.0, 0.0])
                push = direction * (distance - length) / 2
                points[i] -= push
                points[j] += push
    return points


def _bars(ax: Axes, values: Floats) -> None:
    n = len(values)
    order = np.argsort(-values, kind="stable")
    ax.bar(np.arange(1, n + 1), values[order], color=BLUE, width=0.8)
    half = max(n / 2 + 0.2, 3.0)
    ax.set_xlim((n + 1) / 2 - half, (n + 1) / 2 + half)
    if n <= 24:
        ax.set_xticks(range(1, n + 1), [str(i + 1) for i in order])
    ax.grid(axis="y", color=FAINT, linewidth=0.8)


def principal(codes: Floats) -> tuple[Floats, Floats]:
    """The first two principal components of the codes, and their shares of the variance."""
    centred = codes - codes.mean(axis=0)
    variances, directions = np.linalg.eigh(centred.T @ centred)
    total = variances.sum()
    shares = variances[:-3:-1] / total if total > 0 else np.zeros(2)
    return centred @ directions[:, :-3:-1], shares


# ---------------------------------------------------------------------------------- input


def _matrix(name: str, values: npt.ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{name}: got shape {array.shape}, want a non-empty matrix")
    return _finite(name, array)


def _vector(name: str, values: npt.ArrayLike, length: int | None = None) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or length not in (None, len(array)):
        wanted = "a non-empty vector" if length is None else f"({length},)"
        raise ValueError(f"{name}: got shape {array.shape}, want {wanted}")
    return _finite(name, array)


def _finite(name: str, array: Floats) -> Floats:
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: {np.sum(~np.isfinite(array))} values are NaN or infinite")
    return array


def near_square(n_features: int) -> tuple[int, int]:
    """The height and width of a rectangle, nearly a square, that holds so many features."""
    height = math.isqrt(n_features)
    return height, math.ceil(n_features / height)


def _tiles(name: str, images: npt.ArrayLike, image_shape: tuple[int, int] | None) -> Floats:
    """Images as (N, height, width)."""
    array = np.asarray(images, dtype=np.float64)
    if array.ndim not in (2, 3) or array.size == 0:
        raise ValueError(f"{name}: got shape {array.shape}, want (N, D) or (N, height, width)")
    _finite(name, array)
    if array.ndim == 3 and image_shape is None:
        return array
    flat = array.reshape(len(array), -1)
    n_features = flat.shape[1]
    if image_shape is None:
        height, width = near_square(n_features)
        blank = np.full((len(flat), height * width - n_features), np.nan)
        flat = np.hstack([flat, blank])
    else:
        height, width = image_shape
        if height < 1 or width < 1 or height * width != n_features:
            raise ValueError(f"image_shape: {image_shape} does not hold {n_features} features")
    return flat.reshape(-1, height, width)


def class_ranks(labels: npt.ArrayLike | None, n: int) -> tuple[npt.NDArray[np.intp], list[str]]:
    """The rank of each label among the classes, and their names: none where they are too many."""
    unnamed = np.zeros(n, dtype=np.intp)
    if labels is None:
        return unnamed, []
    array = np.asarray(labels)
    if array.shape != (n,):
        raise ValueError(f"labels: got shape {array.shape}, want ({n},)")
    classes, rank = np.unique(array, return_inverse=True)
    if len(classes) > MAX_CLASSES:
        return unnamed, []
    return rank, [str(name) for name in classes]
