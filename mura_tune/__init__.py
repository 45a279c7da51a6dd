"""Search, train, release and read abnormality classifiers for radiographs in MURA's layout.

    import mura_tune as mt

    config = mt.load_config("XR_WRIST", {"arch": "resnet18"})
    search = mt.Search(config, data="data/MURA-v1.1", storage="runs/studies.db")
    best = search.run(trials=24)
    release = mt.finalize(best, out="releases")
    print(mt.load_release("releases/XR_WRIST").predict(["view1.png", "view2.png"]))

A name is imported when it is first used, so that `import mura_tune` loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mura_tune.api.data import cache_area as cache_area
    from mura_tune.api.data import check_data as check_data
    from mura_tune.api.data import draw_phantoms as draw_phantoms
    from mura_tune.api.data import list_areas as list_areas
    from mura_tune.api.evaluate import compare as compare
    from mura_tune.api.evaluate import evaluate as evaluate
    from mura_tune.api.evaluate import evaluate_folders as evaluate_folders
    from mura_tune.api.evaluate import evaluate_routed as evaluate_routed
    from mura_tune.api.evaluate import verify as verify
    from mura_tune.api.evaluate import write_report as write_report
    from mura_tune.api.reading import load_release as load_release
    from mura_tune.api.release import export as export
    from mura_tune.api.release import finalize as finalize
    from mura_tune.api.release import recalibrate as recalibrate
    from mura_tune.api.search import Search as Search
    from mura_tune.api.search import SearchOutcome as SearchOutcome
    from mura_tune.api.search import ablate_second_task as ablate_second_task
    from mura_tune.api.search import load_result as load_result
    from mura_tune.config import SearchConfig as SearchConfig
    from mura_tune.config import load_config as load_config
    from mura_tune.errors import InputError as InputError
    from mura_tune.errors import MuraError as MuraError
    from mura_tune.reading.readers import Predictor as Predictor
    from mura_tune.reading.readers import Router as Router
    from mura_tune.recipe import Recipe as Recipe

_MODULES = {
    "api.data": ("cache_area", "check_data", "draw_phantoms", "list_areas"),
    "api.evaluate": (
        *("compare", "evaluate", "evaluate_folders", "evaluate_routed"),
        *("verify", "write_report"),
    ),
    "api.reading": ("load_release",),
    "api.release": ("export", "finalize", "recalibrate"),
    "api.search": ("Search", "SearchOutcome", "ablate_second_task", "load_result"),
    "config": ("SearchConfig", "load_config"),
    "errors": ("InputError", "MuraError"),
    "reading.readers": ("Predictor", "Router"),
    "recipe": ("Recipe",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
__all__ = ["__version__", *_MODULE_OF]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
