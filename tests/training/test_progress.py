from __future__ import annotations

import io
import xml.etree.ElementTree as ET

import pytest
import scanpy as sc

from scvitl.training import progress as module
from scvitl.training.progress import Notebook, Progress, Terminal, curve, progress

CURVES = {"train": [900.0, 500, 450, 430], "validation": [800.0, 520, 470, 460]}


class Screen(io.StringIO):
    def isatty(self):
        return True


def run(bar):
    for epoch in range(2):
        for _ in range(3):
            bar.step()
        bar.epoch({"elbo_train": 10.0 - epoch, "elbo_validation": 12.0 - epoch})
    bar.finish("done in 3 s", CURVES)


def test_silent_at_verbosity_zero(capsys):
    before = sc.settings.verbosity
    sc.settings.verbosity = 0
    try:
        bar = progress("scVI", 6, show=None)
    finally:
        sc.settings.verbosity = before
    assert type(bar) is Progress
    run(bar)
    assert capsys.readouterr() == ("", "")


def test_silent_when_told_so():
    assert type(progress("scVI", 6, show=False)) is Progress


def test_a_file_gets_one_line(capsys):
    bar = progress("scVI", 6, show=True)
    assert type(bar) is Terminal
    run(bar)
    assert capsys.readouterr() == ("done in 3 s\n", "")


def test_a_terminal_gets_a_bar_that_gives_way_to_the_line(monkeypatch, capsys):
    screen = Screen()
    monkeypatch.setattr("sys.stdout", screen)
    bar = Terminal("scVI", 6)
    bar.bar.mininterval = 0
    run(bar)
    text = screen.getvalue()
    assert "scVI: " in text
    assert "loss 12.0, best 12.0" in text
    assert text.endswith("\rdone in 3 s\n")
    assert capsys.readouterr().err == ""


def test_a_notebook_gets_a_widget_that_gives_way_to_line_and_curve(monkeypatch, capsys):
    import IPython.display

    shown = []

    class Handle:
        def update(self, bundle, raw):
            shown.append(bundle)

    def display(widget, display_id):
        shown.append(widget)
        return Handle()

    monkeypatch.setattr(IPython.display, "display", display)
    monkeypatch.setattr(module, "in_notebook", lambda: True)
    bar = progress("scVI", 6, show=True)
    assert type(bar) is Notebook
    run(bar)
    widget, bundle = shown
    assert "ipywidgets" in type(widget).__mro__[1].__module__
    assert bundle["text/plain"] == "done in 3 s"
    assert "<svg" in bundle["text/html"]
    assert "done in 3 s" in bundle["text/html"]
    assert capsys.readouterr() == ("", "")


def test_curve_is_an_svg_within_its_box():
    svg = ET.fromstring(curve(CURVES))
    lines = svg.findall("polyline")
    assert len(lines) == 2
    for line in lines:
        points = [tuple(map(float, point.split(","))) for point in line.get("points").split()]
        assert len(points) == 4
        assert all(0 <= x <= module.WIDTH and 0 <= y <= module.HEIGHT for x, y in points)
        assert [y for _, y in points] == sorted(y for _, y in points), "the loss falls, so the line goes down"


@pytest.mark.parametrize("curves", [{}, {"train": []}, {"train": [1.0]}])
def test_no_curve_without_epochs(curves):
    assert curve(curves) == ""


def test_the_line_is_escaped(monkeypatch):
    bar = Notebook.__new__(Notebook)
    bundles = []
    bar.bar = type("Bar", (), {"close": lambda self: None})()
    bar.handle = type("Handle", (), {"update": lambda self, bundle, raw: bundles.append(bundle)})()
    bar.finish("a <b> & c", {})
    assert "a &lt;b&gt; &amp; c" in bundles[0]["text/html"]
