"""One live bar while training, one static line afterwards that survives saving the notebook."""

from __future__ import annotations

import sys
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, HEIGHT = 120, 24  # of the loss curve, in pixels


class Progress:
    """Shows nothing; what the loop reports to, and the base of those that show something."""

    def step(self) -> None:
        """A minibatch is done."""

    def epoch(self, row: dict[str, float]) -> None:
        """An epoch is done, with this row of the history."""

    def close(self) -> None:
        """Training is over, well or not."""

    def finish(self, text: str, curves: dict[str, Sequence[float]]) -> None:
        """Leave one line of ``text``, with the loss curves where they can be drawn."""


class Terminal(Progress):
    """A bar on the terminal, replaced by one line; into a file or a pipe only the line is written."""

    def __init__(self, title: str, n_steps: int) -> None:
        from tqdm import tqdm

        self.best = float("inf")
        # stdout is asked, since that is where the line goes and what is redirected when output is kept.
        self.bar = tqdm(
            total=n_steps,
            desc=title,
            leave=False,
            file=sys.stdout,
            disable=not sys.stdout.isatty(),
            mininterval=0.2,
            bar_format="{desc}: {percentage:3.0f}%|{bar:25}| {elapsed}<{remaining}{postfix}",
        )

    def step(self) -> None:
        self.bar.update()

    def epoch(self, row: dict[str, float]) -> None:
        loss = row.get("elbo_validation", row["elbo_train"])
        self.best = min(self.best, loss)
        self.bar.set_postfix_str(f"loss {loss:.1f}, best {self.best:.1f}", refresh=False)

    def close(self) -> None:
        self.bar.close()

    def finish(self, text: str, curves: dict[str, Sequence[float]]) -> None:
        self.close()
        sys.stdout.write(f"{text}\n")


class Notebook(Terminal):
    """A widget in Jupyter, whose place in the output is taken by the line and its curve at the end."""

    def __init__(self, title: str, n_steps: int) -> None:
        from IPython.display import display
        from tqdm.notebook import tqdm

        self.best = float("inf")
        self.bar = tqdm(total=n_steps, desc=title, leave=True, mininterval=0.2, display=False)
        self.handle = display(self.bar.container, display_id=True)

    def close(self) -> None:
        self.bar.close()

    def finish(self, text: str, curves: dict[str, Sequence[float]]) -> None:
        self.close()
        html = f'<div style="font-family: monospace">{curve(curves)} {escape(text)}</div>'
        self.handle.update({"text/plain": text, "text/html": html}, raw=True)


def progress(title: str, n_steps: int, *, show: bool | None) -> Progress:
    """The way to show progress that fits where we run; ``show=None`` asks scanpy's verbosity."""
    if show is None:
        import scanpy as sc

        show = int(sc.settings.verbosity) > 0
    if not show:
        return Progress()
    return Notebook(title, n_steps) if in_notebook() else Terminal(title, n_steps)


def in_notebook() -> bool:
    """Whether output goes to a Jupyter front end, where ipywidgets can draw."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


def curve(curves: dict[str, Sequence[float]]) -> str:
    """Loss curves as an inline SVG; the first epochs, far above the rest, are clipped."""
    values = [value for line in curves.values() for value in line[len(line) // 10 :]]
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    colors = {"validation": "#d95f02"}
    lines = "".join(
        f'<polyline fill="none" stroke="{colors.get(name, "#7f7f7f")}" stroke-width="1.2" points="{_points(line, low, high)}"/>'
        for name, line in curves.items()
    )
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'style="vertical-align: middle"><title>loss by epoch: {escape(", ".join(curves))}</title>{lines}</svg>'
    )


def _points(line: Sequence[float], low: float, high: float) -> str:
    span, last = (high - low) or 1.0, max(len(line) - 1, 1)
    heights = (min(max((value - low) / span, 0.0), 1.0) for value in line)
    return " ".join(
        f"{i / last * (WIDTH - 2) + 1:.1f},{(1 - height) * (HEIGHT - 2) + 1:.1f}"
        for i, height in enumerate(heights)
    )
