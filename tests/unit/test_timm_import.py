"""timm is imported without torch's compiler, or plainly where this torch does not allow it."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest
import torch

from mura_tune import timm_import
from mura_tune.timm_import import import_timm

UTILS = "torch._dynamo.utils"


# Runs each argument in a process of its own, forked where torch is imported already.
FORKS = """
import os, sys, torch
for code in sys.argv[1:]:
    if not os.fork():
        exec(code)
        os._exit(0)
    assert os.wait()[1] == 0, code
"""


def test_the_compiler_is_imported_when_it_is_asked_for_and_not_with_timm() -> None:
    """What torchvision got in its place answers as it does; who has it already keeps it."""
    asked_for = (
        "import mura_tune.networks.factory\n"
        "assert 'timm' in sys.modules and 'torch._dynamo' not in sys.modules\n"
        "asked = sys.modules['torchvision.ops.roi_align'].is_compile_supported('cpu')\n"
        "from torch import _dynamo, compiler\n"
        "assert asked == _dynamo.utils.is_compile_supported('cpu')\n"
        "assert compiler.disable.__module__ == 'torch.compiler'\n"
    )
    there_before = (
        "import torchvision\n"
        "there = sys.modules['torch._dynamo.utils']\n"
        "import mura_tune.networks.factory\n"
        "assert sys.modules['torch._dynamo.utils'] is there\n"
    )
    subprocess.run([sys.executable, "-c", FORKS, asked_for, there_before], check=True)


@pytest.fixture
def nothing_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch._dynamo", UTILS, "torchvision", "timm"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.usefixtures("nothing_imported")
@pytest.mark.parametrize("has_the_name", [True, False])
def test_a_torch_without_the_private_name_gets_a_plain_import(
    has_the_name: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch itself needs the name by now, so no whole import can show what one without it does."""
    if not has_the_name:
        monkeypatch.delattr(torch, "_disable_dynamo")
    disable = torch.compiler.disable
    changed: list[tuple[str, bool, bool]] = []

    def note(name: str) -> ModuleType:
        changed.append((name, torch.compiler.disable is not disable, UTILS in sys.modules))
        return ModuleType(name)

    monkeypatch.setattr(timm_import, "import_module", note)
    import_timm()
    assert changed == [("timm", has_the_name, has_the_name)]


@pytest.mark.usefixtures("nothing_imported")
def test_an_import_that_fails_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> ModuleType:
        raise ImportError(name)

    disable = torch.compiler.disable
    monkeypatch.setattr(timm_import, "import_module", fail)
    with pytest.raises(ImportError, match="timm"):
        import_timm()
    assert torch.compiler.disable is disable
    assert UTILS not in sys.modules
