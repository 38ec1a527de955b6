"""What README.md shows is right: it passes mypy and runs."""

import asyncio
import re
import sys
import types
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from mypy import api

import kar

ROOT = Path(__file__).parent.parent

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_the_code_is_typed(tmp_path: Path) -> None:
    program = tmp_path / "readme.py"
    program.write_text("\n".join(BLOCKS))
    config = ["--config-file", str(ROOT / "pyproject.toml"), "--strict"]
    out, err, code = api.run([*config, str(program)])
    assert code == 0, out + err


def test_the_code_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    hosted: list[Any] = []
    mains: list[Coroutine[Any, Any, None]] = []

    monkeypatch.setattr(kar, "run", lambda *things: hosted.extend(things))
    monkeypatch.setattr(asyncio, "run", mains.append)
    # Types are looked up in the module of a class.
    module = types.ModuleType("readme")
    monkeypatch.setitem(sys.modules, "readme", module)
    for block in BLOCKS:
        exec(block, vars(module))
    assert [getattr(thing, "kar_name", None) for thing in hosted] == ["greeter", "Account"]
    kar.Host(*hosted, socket="nowhere")
    assert len(mains) == 1
    mains[0].close()
