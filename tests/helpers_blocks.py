"""Blocks of code in documents; those marked `<!-- test -->` are executed."""

import os
import re
import subprocess
import sys
from pathlib import Path

_BLOCK = re.compile(r"^(<!-- test -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text, tested):
    """(language, code) of the marked blocks, or of the others."""
    return [(language, code) for mark, language, code in _BLOCK.findall(text) if bool(mark) == tested]


def run_block(language, code, folder):
    """Execute one; the program of this Python comes first, as in an activated environment."""
    scripts = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": os.pathsep.join([scripts, os.environ.get("PATH", "")])}
    command = ["bash", "-euo", "pipefail", "-c", code] if language == "bash" else [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{code}\n{result.stdout}\n{result.stderr}"
    return result.stdout
