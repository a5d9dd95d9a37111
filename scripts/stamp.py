"""Note in every compiled file what all of them are, so that no loop compiled from others is taken for current.

    python scripts/stamp.py

numba keeps what it compiled, and looks at the file of a function alone to see whether that is still right. What the function
calls may be in other files. So each ends with a stamp of all, and changes whenever one of them does.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

FILES = sorted((Path(__file__).parents[1] / "scvitl" / "compiled").glob("[!_]*.py"))
LINE = re.compile(r"\n+# stamp [0-9a-f]*\n$")


def stamp() -> str:
    """A hash of the files, but for their stamps."""
    texts = [LINE.sub("\n", file.read_text()) for file in FILES]
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:16]


def main() -> None:
    """Write the stamp of now."""
    now = stamp()
    for file in FILES:
        file.write_text(LINE.sub("\n", file.read_text()) + f"\n\n# stamp {now}\n")


if __name__ == "__main__":
    main()
