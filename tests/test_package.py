"""Conventions that hold for every public function and every file."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import scvitl

ROOT = Path(scvitl.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
FUNCTIONS = {
    f"{part}.{name}": getattr(getattr(scvitl, part), name)
    for part in ("tl", "pl", "get", "io", "datasets")
    for name in getattr(scvitl, part).__all__
}
FLOORS = [
    {"tl", "pl", "get", "io", "datasets"},
    {"posterior"},
    {"training"},
    {"store"},
    {"data"},
    {"models"},
    {"likelihoods"},
    {"compiled"},
    {"_architectures", "_keys", "_checks", "_logging"},
]


def every_function():
    return pytest.mark.parametrize(("name", "function"), FUNCTIONS.items(), ids=FUNCTIONS)


@every_function()
def test_signature(name, function):
    parameters = list(inspect.signature(function).parameters.values())
    positional = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]
    assert len(positional) <= 3
    if not name.startswith(("datasets.", "io.")):
        assert positional[0].name == ("query" if name == "tl.map_query" else "adata")
    assert all(p.default is not p.empty for p in parameters if p.kind is p.KEYWORD_ONLY)
    assert all(p.annotation is not p.empty for p in parameters)


@every_function()
def test_one_function_per_file(name, function):
    assert Path(inspect.getfile(function)).stem == f"_{name.split('.')[1]}"


def test_tools_work_in_place_or_copy():
    for name, function in FUNCTIONS.items():
        if name.startswith("tl."):
            signature = inspect.signature(function)
            assert signature.parameters["copy"].default is False
            assert signature.return_annotation == "AnnData | None"


def test_plots_take_show_and_ax():
    for name, function in FUNCTIONS.items():
        if name.startswith("pl."):
            assert inspect.signature(function).parameters["show"].default is None


@every_function()
def test_docstring(name, function):
    text = inspect.getdoc(function)
    for section in ("Returns\n-------", "Examples\n--------", ">>> "):
        assert section in text
    for parameter in inspect.signature(function).parameters:
        assert f"\n{parameter}\n    " in text, f"{parameter} is not documented"
        assert f"{{{parameter}}}" not in text
    assert "%(" not in text


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_size(file):
    text = file.read_text()
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
            size = body[-1].end_lineno - body[0].lineno + 1
            assert size <= 60, f"{node.name} has {size} lines"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_down(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    floor = next((i for i, names in enumerate(FLOORS) if parts[0] in names), None)
    if floor is None:  # the package itself
        return
    above = set().union(*FLOORS[:floor])
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level >= len(parts):
            names = [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]
            assert not above & set(names), f"line {node.lineno} imports from a floor above"


@pytest.mark.parametrize("floor", ["models", "likelihoods", "compiled"])
def test_models_know_only_tensors(floor):
    for file in (ROOT / floor).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not {name.split(".")[0] for name in names} & {"anndata", "scanpy", "pandas"}


def test_import_is_light():
    """No torch, no widgets, and little beyond scanpy itself."""
    code = (
        "import scanpy, sys; before = set(sys.modules); import scvitl;"
        "print(*sorted(set(sys.modules) - before));"
        "assert not {'torch', 'ipywidgets', 'IPython.display'} & set(sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    added = out.split()
    assert "scvitl.tl" in added
    # Modules, not seconds: what scanpy has not loaded already is what costs time.
    assert [name for name in added if not name.startswith("scvitl")] == []
