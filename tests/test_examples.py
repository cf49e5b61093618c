"""Every example runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_quickstart(mini_bundle: Path) -> None:
    photo = ROOT / "src" / "glc" / "photos" / "coffee.png"
    command = [sys.executable, str(ROOT / "examples" / "quickstart.py"), str(mini_bundle), str(photo)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "decoded (400, 600, 3), preview (400, 600, 3)" in result.stdout
    assert "600x400" in result.stdout
