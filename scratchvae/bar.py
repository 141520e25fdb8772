"""The progress of a training on stderr."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scratchvae.train import Training


class ProgressBar:
    """Epoch, its terms, images/s and time left on stderr; into a pipe, a line an epoch."""

    def __init__(self, training: Training, epochs: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, Task, TextColumn, TimeRemainingColumn
        from rich.table import Column
        from rich.text import Text

        class Terms(TextColumn):
            """The column that is cut where the window is narrow."""

            def render(self, task: Task) -> Text:
                return Text(task.fields["terms"], no_wrap=True, overflow="ellipsis")

        self.training, self.epochs = training, epochs
        self.console = Console(file=sys.stderr)
        self.started, self.shown = time.perf_counter(), 0.0
        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(bar_width=min(40, max(4, self.console.width - 80))),
            Terms("", table_column=Column()),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.seen = self._images()
        self.task = self.bar.add_task(
            "",
            total=epochs * training.steps_an_epoch,
            completed=training.epoch * training.steps_an_epoch + training.step,
            epoch=min(training.epoch + 1, epochs),
            epochs=epochs,
            terms=_terms_text(training.history.last()),
            speed="",
        )

    def __enter__(self) -> ProgressBar:
        self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()

    def step(self) -> None:
        """Redraw at most ten times a second: drawing costs more than a training step."""
        now = time.perf_counter()
        if now - self.shown < 0.1:
            return
        self.shown = now
        done = self.training.epoch * self.training.steps_an_epoch + self.training.step
        speed = (self._images() - self.seen) / (now - self.started)
        self.bar.update(
            self.task,
            completed=done,
            epoch=self.training.epoch + 1,
            speed=f"{speed:,.0f} images/s",
        )

    def _images(self) -> int:
        """Return how many images the training has seen."""
        t = self.training
        return t.epoch * t.n_examples + min(t.step * t.batch_size, t.n_examples)

    def epoch(self, row: dict[str, float]) -> None:
        """Show the figures of the epoch that has ended."""
        epoch, text = self.training.epoch, _terms_text(row)
        completed = epoch * self.training.steps_an_epoch
        self.bar.update(self.task, completed=completed, epoch=epoch, terms=text)
        if not self.console.is_terminal:
            print(f"epoch {epoch}/{self.epochs}  {text}", file=sys.stderr)


def _terms_text(row: dict[str, float]) -> str:
    """Return the row's terms: of neg_elbo, reconstruction, kl and mse those that are there."""
    labels = {"neg_elbo": "-ELBO", "reconstruction": "rec", "kl": "KL", "mse": "MSE"}
    parts = [f"{label} {row[name]:.4g}" for name, label in labels.items() if name in row]
    for name in ("val_neg_elbo", "val_mse"):
        if name in row:
            parts.append(f"val {row[name]:.4g}")
    return " ".join(parts)
