"""Run a notebook, the quickstart unless another is named, and keep what it shows: a web page and its last figure.

With ``--inplace`` the notebook itself is also stored with its outputs, without what differs from run to run.
"""

from __future__ import annotations

import argparse
import base64
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
OUT = ROOT / "build" / "demo"
WIDGET = "application/vnd.jupyter.widget-view+json"


def execute(notebook: NotebookNode, folder: Path) -> None:
    """Run all cells in `folder`, with the Python that runs this script."""
    # Without folders to search, the only kernel left is ipykernel's own: this interpreter.
    specs = KernelSpecManager(kernel_dirs=[])
    kernel = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=specs)
    client = NotebookClient(
        notebook,
        km=kernel,
        extra_arguments=[
            "--log-level=ERROR"
        ],  # the kernel warns of unencrypted traffic, which stays on this machine
        timeout=1800,
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()


def without_widget(output: NotebookNode) -> NotebookNode | None:
    """The output without its widget, which is blank without a kernel; None where nothing else is left to see."""
    if output.get("name") == "stderr":
        return None
    data = output.get("data", {})
    if data.pop(WIDGET, None) and set(data) <= {"text/plain"}:
        return None
    return output


def tidy(notebook: NotebookNode) -> None:
    """Drop what a reader does not need or what would change with every run."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python", "pygments_lexer": "ipython3"},
    }
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in map(without_widget, cell.outputs) if output]


def last_png(notebook: NotebookNode, name: str) -> bytes:
    """The last picture that the notebook shows."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    if not pictures:
        msg = f"{name} shows no picture"
        raise ValueError(msg)
    return base64.b64decode(pictures[-1])


def write(notebook: NotebookNode, name: str, folder: Path) -> list[Path]:
    """Write the page and the picture, and say where they are."""
    page, picture = (folder / f"{name}{suffix}" for suffix in (".html", ".png"))
    title = f"scvitl {name.replace('_', ' ')}"
    html, _ = HTMLExporter().from_notebook_node(notebook, {"metadata": {"name": title}})
    page.write_text(html, encoding="utf-8")
    picture.write_bytes(last_png(notebook, name))
    return [page, picture]


def main() -> None:
    """Run the demo from the command line."""
    names = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="?", default="quickstart", choices=names, help="the notebook to run")
    parser.add_argument("--inplace", action="store_true", help="store the executed notebook back")
    arguments = parser.parse_args()

    path = NOTEBOOKS / f"{arguments.name}.ipynb"
    OUT.mkdir(parents=True, exist_ok=True)
    notebook = nbformat.read(path, as_version=4)
    print(f"running {path.relative_to(ROOT)}", flush=True)
    execute(notebook, OUT)
    tidy(notebook)
    written = write(notebook, arguments.name, OUT)
    if arguments.inplace:
        nbformat.write(notebook, path)
        written.append(path)
    for path in written:
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
