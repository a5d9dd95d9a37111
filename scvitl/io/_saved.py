"""The files that scvi-tools saves a model in."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ._decode import unpickle
from ._unpickle import intact

NEW, OLD = "model.pt", "model_params.pt"
OLD_ATTRIBUTES, OLD_GENES = "attr.pkl", "var_names.csv"


@dataclass(frozen=True)
class Saved:
    """What the files hold, as plain objects."""

    file: Path
    state: dict[str, np.ndarray]  # tensors by the names of scvi-tools
    genes: tuple[str, ...]  # none of a MuData, whose modalities have theirs in the registry
    attributes: dict[str, Any]


def read(path: str | Path) -> Saved:
    """Read the model at ``path``, a folder or a file."""
    file = find(Path(path).expanduser())
    content = torch_file(file)
    if "model_state_dict" in content:
        state, attributes, genes = (
            content.get(key) for key in ("model_state_dict", "attr_dict", "var_names")
        )
    else:
        state = content
        attributes, genes = old_files(file)
    with intact(file):
        state = {name: tensor for name, tensor in state.items() if name != "pyro_param_store"}
        if not state or not all(isinstance(tensor, np.ndarray) for tensor in state.values()):
            msg = "there are no weights in it"
            raise ValueError(msg)
        genes = () if isinstance(genes, dict) else tuple(map(str, genes))
        return Saved(file, state, genes, dict(attributes))


def find(path: Path) -> Path:
    """The file with the weights."""
    if path.is_file():
        return path
    folder = path if path.is_dir() else path.parent
    inside = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    if path.is_dir():
        for name in (NEW, OLD):
            found = [entry for entry in inside if entry.endswith(name)]
            if len(found) == 1:
                return path / found[0]
            if found:
                msg = f"{str(path)!r} holds several models ({', '.join(found)}): pass the path of one of these files."
                raise ValueError(msg)
        problem = f"{str(path)!r} holds neither {NEW!r} nor {OLD!r}, in which scvi-tools saves a model."
    else:
        problem = f"{str(path)!r} does not exist."
    some = ", ".join(map(repr, inside[:10])) + (", …" if len(inside) > 10 else "")
    where = f"In {str(folder)!r}: {some or 'nothing'}." if folder.is_dir() else f"Nor does {str(folder)!r}."
    msg = f"{problem} {where} Pass the folder that model.save() of scvi-tools made, or the file in it."
    raise FileNotFoundError(msg)


def torch_file(file: Path) -> dict[str, Any]:
    """The dict in a file of torch, its tensors as arrays.

    Such a file is a zip archive of a pickle and the raw values of every tensor.
    """
    if not zipfile.is_zipfile(file):
        msg = (
            f"{str(file)!r} is not a file that torch.save writes since PyTorch 1.6. Pass the folder that model.save() of "
            "scvi-tools made; a model from before 2020 has to be saved anew by scvi-tools first."
        )
        raise ValueError(msg)
    with intact(file), zipfile.ZipFile(file) as archive:
        members = {info.filename: info for info in archive.infolist()}
        main = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
        plain = all(info.compress_type == zipfile.ZIP_STORED for info in members.values())
        # Else a small file could stand for a large one.
        plain &= sum(info.file_size for info in members.values()) <= file.stat().st_size
        if len(main) != 1 or not plain:
            msg = "it is a zip archive, but none of torch"
            raise ValueError(msg)
        root = main[0].removesuffix("data.pkl")
        order = archive.read(f"{root}byteorder").decode() if f"{root}byteorder" in members else "little"
        content = unpickle(
            archive.read(main[0]),
            file,
            storage=cache(lambda key: archive.read(f"{root}data/{key}")),
            byteorder=order,
        )
        if not isinstance(content, dict):
            msg = f"it holds {type(content).__name__} where a dict belongs"
            raise TypeError(msg)
        return content


def old_files(file: Path) -> tuple[dict[str, Any], list[str]]:
    """Attributes and genes, which lie next to the weights in the layout from before scvi-tools 0.15."""
    prefix = file.name.removesuffix(OLD)
    paths = [file.with_name(prefix + name) for name in (OLD_ATTRIBUTES, OLD_GENES)]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        msg = (
            f"{str(file)!r} holds weights alone, as scvi-tools saved them before 0.15; {' and '.join(map(repr, missing))} "
            f"belong next to it in {str(file.parent)!r} and are not there."
        )
        raise FileNotFoundError(msg)
    return unpickle(paths[0].read_bytes(), paths[0]), paths[1].read_text(encoding="utf-8").splitlines()
