"""The figures: what stands on them, what they refuse, and that they leave the world as it was."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import matplotlib
import matplotlib.image
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from scratchvae import plots
from scratchvae.train import History

SHAPE = (4, 4)
Z = np.linspace(-2, 2, 5)
RNG = np.random.default_rng(0)
IMAGES = RNG.random((12, 16))
CODES = RNG.normal(size=(60, 5))
LABELS = np.arange(60) % 10
PLANE = RNG.random((25, 16))


def vae_history(n_epochs: int, beta: float = 1.0) -> dict[str, list[float]]:
    reconstruction = np.linspace(200, 90, n_epochs)
    kl = np.linspace(5, 25, n_epochs)
    columns = {
        "epoch": np.arange(1, n_epochs + 1),
        "loss": reconstruction + beta * kl,
        "reconstruction": reconstruction,
        "kl": kl,
        "neg_elbo": reconstruction + kl,
        "val_reconstruction": reconstruction + 3,
        "val_kl": kl + 1,
        "val_neg_elbo": reconstruction + kl + 4,
        "seconds": np.full(n_epochs, 7.0),
    }
    return {name: values.tolist() for name, values in columns.items()}


FIGURES = {
    "curves": lambda: plots.curves(vae_history(5), title="A VAE"),
    "curves, one epoch": lambda: plots.curves(vae_history(1)),
    "curves, autoencoder": lambda: plots.curves({"mse": [0.05, 0.02], "val_mse": [0.06, 0.03]}),
    "curves, nothing finite": lambda: plots.curves({"mse": [np.nan, np.inf]}),
    "image_rows": lambda: plots.image_rows({"a": IMAGES, "b": IMAGES}, title="Two rows"),
    "reconstructions": lambda: plots.reconstructions(IMAGES, 1 - IMAGES, noisy=IMAGES**2),
    "reconstructions, one image": lambda: plots.reconstructions(
        IMAGES[:1], IMAGES[1:2], errors=[0.01]
    ),
    "reconstructions, crowded": lambda: plots.reconstructions(
        np.tile(IMAGES, (3, 1)), np.tile(IMAGES, (3, 1)), errors=np.zeros(36)
    ),
    "image_grid": lambda: plots.image_grid(IMAGES, columns=5),
    "image_grid, one image": lambda: plots.image_grid(IMAGES[:1], title="One image, many words"),
    "image_grid, a strip": lambda: plots.image_grid(IMAGES[:4], image_shape=(1, 16)),
    "interpolation": lambda: plots.interpolation(IMAGES.reshape(2, 6, 16), ends=[(3, 8), (1, 7)]),
    "interpolation, one step": lambda: plots.interpolation(IMAGES[:1, None]),
    "scatter_codes": lambda: plots.scatter_codes(CODES[:, :2], LABELS),
    "scatter_codes, one": lambda: plots.scatter_codes(CODES[:1, :2], [7]),
    "scatter_codes, no labels": lambda: plots.scatter_codes(CODES[:, :2]),
    "manifold": lambda: plots.manifold(PLANE, Z, Z),
    "manifold, one point": lambda: plots.manifold(PLANE[:1], [0.0], [0.0]),
    "latent, 1": lambda: plots.latent(CODES[:, :1], LABELS, kl=[2.0]),
    "latent, 2": lambda: plots.latent(CODES[:, :2], LABELS, decoded=(PLANE, Z, Z)),
    "latent, 5": lambda: plots.latent(CODES, LABELS, kl=[0.5, 0.0, 2.0, 0.001, 1.0]),
    "latent, 5, autoencoder": lambda: plots.latent(CODES),
    "latent, 30": lambda: plots.latent(np.tile(CODES, (1, 6)), LABELS, kl=np.arange(30)),
    "latent, one image": lambda: plots.latent(CODES[:1], LABELS[:1]),
}


def pixels(path: Path) -> np.ndarray:
    return matplotlib.image.imread(path)[..., :3]


def texts_seen(figure: Figure) -> list[Text]:
    texts = list(figure.texts)
    for ax in (child for parent in figure.axes for child in (parent, *parent.child_axes)):
        texts += [ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts]
        texts += ax.get_legend().get_texts() if ax.get_legend() else []
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
            texts += [label for place, label in ticks if low <= place <= high]
    return [text for text in texts if text.get_text() and text.get_visible()]


def overlapping(figure: Figure) -> list[str]:
    """The texts of a drawn figure that lie on another."""
    texts = texts_seen(figure)
    boxes = [text.get_window_extent() for text in texts]
    return [t.get_text() for i, t in enumerate(texts) if boxes[i].count_overlaps(boxes[:i])]


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_titled_drawn_and_saved(name, tmp_path):
    figure = FIGURES[name]()
    path = plots.save(figure, tmp_path / "made" / "figure.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in path.parent.iterdir()] == ["figure.png"]

    image = pixels(path)
    assert np.allclose(image.shape[:2], figure.get_size_inches()[::-1] * plots.DPI, atol=1)
    for ax in figure.axes:
        assert ax.get_title()
        # The panel, in pixels from the bottom left: something is drawn inside it.
        box = ax.get_window_extent()
        rows = slice(int(image.shape[0] - box.y1) + 2, int(image.shape[0] - box.y0) - 2)
        panel = image[rows, int(box.x0) + 2 : int(box.x1) - 2]
        assert panel.size > 0
        assert panel.std() > 0.001
    border = np.concatenate([image[:3].ravel(), image[-3:].ravel(), image[:, :3].ravel()])
    assert border.min() == 1.0, "something runs off the page"
    assert overlapping(figure) == []


def test_a_blank_panel_would_be_noticed(tmp_path):
    figure, (ax,) = plots.new_figure(3, 3)
    ax.set_axis_off()
    assert pixels(plots.save(figure, tmp_path / "blank.png")).std() == 0


def test_overlapping_texts_would_be_noticed():
    figure = plots.image_grid(IMAGES)
    figure.axes[0].set_xticks([0.0, 1.0], ["many words", "more words"])
    figure.draw_without_rendering()
    assert overlapping(figure) == ["more words"]


# --------------------------------------------------------------------------------- curves


def lines(ax: Axes) -> dict[str, np.ndarray]:
    return {line.get_label().split(",")[0]: line.get_ydata() for line in ax.get_lines()}


def test_curves_put_each_term_on_its_own_panel_with_its_unit():
    history = vae_history(4)
    figure = plots.curves(history, title="Run 7")
    assert figure.get_suptitle() == "Run 7"
    headings = [ax.get_title() for ax in figure.axes]
    assert headings == ["Negative ELBO", "Reconstruction", "KL divergence"]
    for ax, term in zip(figure.axes, ("neg_elbo", "reconstruction", "kl"), strict=True):
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "nats an image")
        assert lines(ax)["training"].tolist() == history[term]
        assert lines(ax)["validation"].tolist() == history[f"val_{term}"]
        words = [text.get_text() for text in ax.get_legend().get_texts()]
        assert words[0] == f"training, last {history[term][-1]:.1f}"


def test_curves_tell_training_from_validation_without_colour():
    for ax in plots.curves(vae_history(4)).axes:
        training, validation = ax.get_lines()
        assert training.get_linestyle() != validation.get_linestyle()
        assert training.get_marker() != validation.get_marker()


def test_the_objective_of_a_model_of_ones_own_is_no_elbo():
    own = plots.curves({"loss": [3.0, 2.0], "mse": [2.0, 1.0], "l1": [1.0, 1.0]}).axes
    assert [ax.get_title() for ax in own] == ["Loss", "Reconstruction error"]
    vae = plots.curves({name: [3.0, 2.0] for name in ("loss", "reconstruction", "kl")}).axes
    assert vae[0].get_title() == "Objective: reconstruction + β KL"


def test_curves_show_the_objective_only_where_it_is_not_the_elbo():
    headings = [ax.get_title() for ax in plots.curves(vae_history(4, beta=4.0)).axes]
    assert headings[1].startswith("Objective")
    assert len(headings) == 4
    (ax,) = plots.curves({"loss": [3.0, 2.0], "mse": [3.0, 2.0]}, title="Run 8").axes
    assert (ax.get_title(), ax.get_ylabel()) == ("Run 8", "Reconstruction error, MSE a pixel")


def test_curves_of_one_epoch_have_a_marker_and_a_whole_tick():
    for ax in plots.curves(vae_history(1)).axes:
        assert all(line.get_marker() not in ("", "None") for line in ax.get_lines())
        low, high = ax.get_xlim()
        assert [t for t in ax.get_xticks() if low <= t <= high] == [1.0]


def test_curves_without_validation_and_with_gaps():
    (ax,) = plots.curves({"mse": [0.4, np.nan, np.inf, 0.1]}).axes
    assert list(lines(ax)) == ["training"]
    assert np.isnan(lines(ax)["training"]).tolist() == [False, True, True, False]
    (ax,) = plots.curves({"val_mse": [0.4]}).axes
    assert list(lines(ax)) == ["validation"]


@pytest.mark.parametrize(
    ("history", "says"),
    [
        ({}, "no known term"),
        ({"epoch": [1], "accuracy": [0.9]}, "no known term among .*accuracy"),
        ({"mse": []}, "at least 1"),
        ({"mse": [1.0, 2.0], "val_mse": [1.0]}, "one length"),
        ({"mse": [[1.0, 2.0]]}, "one length"),
        ({"mse": 1.0}, "one length"),
        ({"epoch": [1, np.nan], "mse": [1.0, 2.0]}, "epoch.*NaN"),
    ],
)
def test_curves_refuse(history, says):
    with pytest.raises(ValueError, match=says):
        plots.curves(history)


# --------------------------------------------------------------------------------- images


def picture(figure: Figure) -> np.ma.MaskedArray:
    (image,) = figure.axes[0].get_images()
    assert image.get_interpolation() == "nearest"
    return image.get_array()


def tick_texts(axis) -> list[str]:
    return [tick.get_text() for tick in axis.get_ticklabels()]


def test_reconstructions_label_rows_and_errors():
    figure = plots.reconstructions(
        IMAGES[:3], IMAGES[3:6], noisy=IMAGES[6:9], errors=[0.0209, 0.00543, 0.01]
    )
    ax = figure.axes[0]
    assert tick_texts(ax.yaxis) == ["original", "corrupted", "reconstruction"]
    assert tick_texts(ax.xaxis) == ["0.0209", "0.0054", "0.0100"]
    assert ax.get_xlabel() == "MSE a pixel"
    array = picture(figure)
    assert array.shape == (3 * 5 - 1, 3 * 5 - 1)
    # Each row label stands at the middle of its row; each tile holds its image, gaps are blank.
    assert ax.get_yticks().tolist() == [1.5, 6.5, 11.5]
    for row, images in enumerate((IMAGES[:3], IMAGES[6:9], IMAGES[3:6])):
        for column in range(3):
            tile = array[row * 5 : row * 5 + 4, column * 5 : column * 5 + 4]
            assert np.array_equal(tile, images[column].reshape(SHAPE))
    assert array.mask[4].all()
    assert array.mask[:, 4].all()


def test_images_are_drawn_on_one_fixed_scale():
    for name in ("reconstructions", "image_grid", "interpolation", "manifold"):
        assert FIGURES[name]().axes[0].get_images()[0].get_clim() == (0.0, 1.0)
    weights = plots.image_grid(IMAGES - 0.5, value_range=(-0.5, 0.5))
    assert weights.axes[0].get_images()[0].get_clim() == (-0.5, 0.5)


def test_image_grid_fills_row_by_row_and_leaves_the_rest_blank():
    array = picture(plots.image_grid(IMAGES[:5], columns=3))
    assert array.shape == (9, 14)
    assert np.array_equal(array[5:9, 5:9], IMAGES[4].reshape(SHAPE))
    assert array.mask[5:9, 10:14].all()
    assert picture(plots.image_grid(IMAGES[:3], columns=9)).shape == (4, 14)


def test_images_stand_on_their_feet():
    (image,) = plots.image_grid(IMAGES[:1]).axes[0].images
    _, _, bottom, top = image.get_extent()
    assert bottom > top == -0.5  # row 0 is the uppermost


def test_curves_of_a_history():
    history = History()
    history.append({"mse": 0.5, "val_mse": 0.6})
    (ax,) = plots.curves(history).axes
    assert len(ax.lines) == 2
    with pytest.raises(ValueError, match=r"no known term among \[\]"):
        plots.curves(History())


def test_image_shape_is_taken_from_the_images_or_the_nearest_rectangle():
    assert picture(plots.image_grid(np.ones((1, 3, 7)))).shape == (3, 7)
    assert picture(plots.image_grid(np.ones((1, 21)), image_shape=(3, 7))).shape == (3, 7)
    thirteen = picture(plots.image_grid(np.arange(13.0)[None] / 13))
    assert thirteen.shape == (3, 5)
    assert np.array_equal(thirteen.compressed(), np.arange(13) / 13)


def test_interpolation_labels_both_ends():
    figure = plots.interpolation(IMAGES.reshape(2, 6, 16), ends=[(3, 8), ("one", "seven")])
    ax = figure.axes[0]
    assert tick_texts(ax.yaxis) == ["3", "one"]
    (right,) = ax.child_axes
    assert tick_texts(right.yaxis) == ["8", "seven"]
    assert tick_texts(ax.xaxis) == ["0", "0.25", "0.5", "0.75", "1"]
    assert ax.get_xticks()[[0, -1]].tolist() == [1.5, 26.5]
    assert np.array_equal(picture(figure)[:4, -4:], IMAGES[5].reshape(SHAPE))


@pytest.mark.parametrize("errors", [[0.0, 0.0], [1234.5, 3.21]])
def test_errors_of_any_size_are_written(errors):
    figure = plots.reconstructions(IMAGES[:2], IMAGES[:2], errors=errors, error_label="nats")
    assert tick_texts(figure.axes[0].xaxis) == [f"{e:.0f}" for e in errors]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: plots.image_grid(np.ones((0, 16))), r"images: got shape \(0, 16\)"),
        (lambda: plots.image_grid(np.ones(16)), r"images: got shape \(16,\)"),
        (lambda: plots.image_grid(np.full((1, 16), np.nan)), "images: 16 values are NaN"),
        (lambda: plots.image_grid(IMAGES, image_shape=(3, 5)), "does not hold 16 features"),
        (lambda: plots.image_grid(IMAGES, image_shape=(-4, -4)), "does not hold 16 features"),
        (lambda: plots.image_grid(IMAGES, columns=0), "columns: got 0"),
        (lambda: plots.image_rows({}, title="None"), "at least one row"),
        (lambda: plots.reconstructions(IMAGES, IMAGES[:5]), "rows: want images of one number"),
        (lambda: plots.reconstructions(IMAGES, IMAGES, errors=[1.0]), r"errors: .*\(12,\)"),
        (lambda: plots.interpolation(IMAGES), "paths: got shape"),
        (lambda: plots.interpolation(np.ones((2, 3, 16)), ends=[(1, 2)]), "1 pairs for 2 paths"),
        (lambda: plots.manifold(IMAGES, Z, Z), "images: got 12 for 5 z2 times 5 z1"),
        (lambda: plots.manifold(PLANE, Z[::-1], Z), "z1: the values of the grid must rise"),
        (lambda: plots.manifold(PLANE, Z, np.zeros(5)), "z2: the values of the grid must rise"),
        (lambda: plots.manifold(PLANE, [Z], Z), "z1: got shape"),
    ],
)
def test_images_that_do_not_fit_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


# --------------------------------------------------------------------------- latent space


def names_drawn(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_scatter_names_each_class_by_colour_and_at_its_median():
    centres = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    labels = np.repeat([2, 5, 9], 7)
    codes = np.repeat(centres, 7, axis=0)
    ax = plots.scatter_codes(codes, labels, axis_labels=("first", "second")).axes[0]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("first", "second")
    assert names_drawn(ax) == ["2", "5", "9"]
    assert np.allclose([text.get_position() for text in ax.texts], centres)
    (points,) = ax.collections
    assert np.array_equal(points.get_offsets(), codes)
    drawn = [to_hex(c).upper() for c in points.get_facecolors()]
    assert drawn == [plots.CLASS_COLOURS[i].upper() for i in np.repeat([0, 1, 2], 7)]
    legend = ax.get_legend()
    assert legend.get_title().get_text() == "digit"
    assert [text.get_text() for text in legend.get_texts()] == ["2", "5", "9"]


def test_long_names_of_classes_are_numbered_on_the_plane_and_explained_in_the_legend():
    ax = plots.scatter_codes(CODES[:, :2], np.array(["boot", "bag", "coat"])[LABELS % 3]).axes[0]
    assert names_drawn(ax) == ["0", "1", "2"]
    entries = [text.get_text() for text in ax.get_legend().get_texts()]
    assert entries == ["0  bag", "1  boot", "2  coat"]


@pytest.mark.parametrize("n_latent", [1, 2, 5])
def test_too_many_classes_are_drawn_alike(n_latent):
    ax = plots.latent(CODES[:, :n_latent], np.arange(60)).axes[0]
    assert ax.get_legend() is None
    assert not ax.texts
    assert len(ax.collections[0].get_facecolors()) == 60
    assert len({to_hex(colour) for colour in ax.collections[0].get_facecolors()}) == 1


def test_names_of_classes_on_one_spot_are_pushed_apart():
    codes = np.vstack([np.zeros((10, 2)), [[10.0, 10.0]]])
    ax = plots.scatter_codes(codes, np.minimum(np.arange(11), 3)).axes[0]
    assert len(ax.texts) == 4
    ax.get_figure().draw_without_rendering()
    assert overlapping(ax.get_figure()) == []


def test_the_ten_class_colours_differ_also_from_the_page():
    assert len(set(plots.CLASS_COLOURS)) == 10
    assert "#FFFFFF" not in plots.CLASS_COLOURS


def test_manifold_has_z_on_its_axes_and_z2_pointing_up():
    z1, z2 = np.array([-1.0, 0.0, 4.0]), np.array([-3.0, 3.0])
    figure = plots.manifold(IMAGES[:6], z1, z2)
    ax, array = figure.axes[0], picture(figure)
    assert array.shape == (8, 12)
    # images[0] decodes (z1[0], z2[0]): bottom left, as on paper.
    assert np.array_equal(array[4:, :4], IMAGES[0].reshape(SHAPE))
    assert np.array_equal(array[:4, 8:], IMAGES[5].reshape(SHAPE))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("z₁", "z₂")
    ticks = dict(zip(tick_texts(ax.xaxis), ax.get_xticks(), strict=True))
    # The centres of the tiles, though the grid is uneven; 2 lies half way between 0 and 4.
    assert [ticks[z] for z in ("−1", "0", "4", "2")] == [1.5, 5.5, 9.5, 7.5]
    ticks = dict(zip(tick_texts(ax.yaxis), ax.get_yticks(), strict=True))
    assert ticks["0"] == 3.5
    assert ticks["−2"] > ticks["2"]  # pixel rows count downwards


def test_latent_of_two_shows_codes_and_decoded_plane():
    left, right = plots.latent(CODES[:, :2], LABELS, decoded=(PLANE, Z, Z / 2)).axes
    assert np.array_equal(left.collections[0].get_offsets(), CODES[:, :2])
    assert (left.get_xlabel(), right.get_ylabel()) == ("z₁", "z₂")
    (box,) = left.patches
    assert (box.get_xy(), box.get_width(), box.get_height()) == ((-2, -1), 4, 2)
    assert right.get_images()


def test_latent_of_many_shows_principal_components_and_sorted_kl():
    left, right = plots.latent(CODES, LABELS, kl=[0.5, 0.0, 2.0, 0.001, 1.0]).axes
    centred = CODES - CODES.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    drawn = np.asarray(left.collections[0].get_offsets())
    assert np.allclose(np.abs(drawn), np.abs(u[:, :2] * s[:2]))
    share = s[0] ** 2 / (s**2).sum()
    assert left.get_xlabel() == f"principal component 1 ({share:.0%} of variance)"
    assert [bar.get_height() for bar in right.patches] == [2.0, 1.0, 0.5, 0.001, 0.0]
    assert tick_texts(right.xaxis) == ["3", "5", "1", "4", "2"]
    assert right.get_title() == "KL by latent: 3 of 5 in use (above 0.01 nats)"
    assert right.get_ylabel() == "mean KL, nats"


def test_latent_of_an_autoencoder_shows_variances():
    _, right = plots.latent(CODES * [1, 2, 3, 4, 5]).axes
    heights = [bar.get_height() for bar in right.patches]
    assert np.allclose(heights, np.sort((CODES * [1, 2, 3, 4, 5]).var(axis=0))[::-1])
    assert right.get_title() == "Variance by latent"


def test_latent_of_one_shows_a_row_for_each_class():
    left, _ = plots.latent(CODES[:, :1], LABELS, kl=[1.0]).axes
    x, y = np.asarray(left.collections[0].get_offsets()).T
    assert np.array_equal(x, CODES[:, 0])
    assert np.array_equal(np.round(y), LABELS)
    assert tick_texts(left.yaxis) == [str(digit) for digit in range(10)]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: plots.scatter_codes(CODES), r"codes: got shape \(60, 5\), want \(N, 2\)"),
        (lambda: plots.scatter_codes(np.ones((0, 2))), "codes: got shape"),
        (lambda: plots.scatter_codes(CODES[:, :2], LABELS[:5]), r"labels: got shape \(5,\)"),
        (lambda: plots.latent([[np.nan, 1.0]]), "codes: 1 values are NaN"),
        (lambda: plots.latent(CODES, kl=[1.0]), r"kl: got shape \(1,\), want \(5,\)"),
        (lambda: plots.latent(CODES, decoded=(PLANE, Z, Z)), "wants 2 latents, codes have 5"),
    ],
)
def test_codes_that_do_not_fit_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


# ------------------------------------------------------------------------ files and state


def test_save_keeps_the_old_picture_where_it_cannot_write_the_new(tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    path.write_bytes(b"the old picture")
    figure = plots.image_grid(IMAGES)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        plots.save(figure, path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"the old picture"


def test_save_leaves_nothing_where_the_figure_cannot_be_drawn(tmp_path, monkeypatch):
    figure = plots.image_grid(IMAGES)
    monkeypatch.setattr(figure, "draw", lambda renderer: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        plots.save(figure, tmp_path / "figure.png")
    assert list(tmp_path.iterdir()) == []


def test_save_replaces_whole_and_writes_png_only(tmp_path):
    path = plots.save(plots.image_grid(IMAGES), tmp_path / "figure.png")
    first = path.read_bytes()
    plots.save(plots.image_grid(1 - IMAGES), str(path))
    assert path.read_bytes() != first
    with pytest.raises(ValueError, match=r"path: got 'figure.svg'.*\.png"):
        plots.save(plots.image_grid(IMAGES), tmp_path / "figure.svg")
    assert list(tmp_path.iterdir()) == [path]


def test_arguments_are_not_written_into():
    images, codes, history = IMAGES.copy(), CODES[:, :2].copy(), vae_history(3)
    for array in (images, codes):
        array.flags.writeable = False
    plots.reconstructions(images, images, noisy=images)
    plots.latent(codes, LABELS, decoded=(images, Z[:4], Z[:3]))
    plots.curves(history)
    assert history == vae_history(3)


def test_several_threads_draw_what_one_does(tmp_path):
    def draw(name: str) -> None:
        plots.save(FIGURES["latent, 5"](), tmp_path / name)

    threads = [threading.Thread(target=draw, args=(f"{i}.png",)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    draw("alone.png")
    alone = (tmp_path / "alone.png").read_bytes()
    assert [(tmp_path / f"{i}.png").read_bytes() == alone for i in range(3)] == [True] * 3


def test_nothing_global_of_matplotlib_is_touched(tmp_path):
    script = f"""
import sys, matplotlib, numpy as np
before = {{key: dict.__getitem__(matplotlib.rcParams, key) for key in matplotlib.rcParams}}
maps = list(matplotlib.colormaps)
from scratchvae import plots
codes = np.random.default_rng(0).normal(size=(20, 3))
plots.save(plots.latent(codes, np.arange(20) % 4), {str(tmp_path / "latent.png")!r})
plots.save(plots.image_grid(np.ones((3, 5))), {str(tmp_path / "grid.png")!r})
plots.save(plots.curves({{"mse": [1.0, 2.0]}}), {str(tmp_path / "curves.png")!r})
after = {{key: dict.__getitem__(matplotlib.rcParams, key) for key in matplotlib.rcParams}}
assert "matplotlib.pyplot" not in sys.modules, "pyplot was imported"
assert all(before[key] is after[key] or before[key] == after[key] for key in before), "rcParams"
assert list(matplotlib.colormaps) == maps
"""
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=root,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
