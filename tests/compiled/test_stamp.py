"""No loop that was compiled from other files than these is ever run."""

from __future__ import annotations

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "stamp.py"


def test_every_file_has_the_stamp_of_all():
    spec = importlib.util.spec_from_file_location("stamp", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert len(module.FILES) > 4
    for file in module.FILES:
        assert file.read_text().endswith(f"\n# stamp {module.stamp()}\n"), "run python scripts/stamp.py"
