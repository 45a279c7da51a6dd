"""How many trials does a sibling's winner save?

At each
seed phantom upper arms are searched and confirmed first; then forearms twice, without and with that
winner as a warm start. Counted is the trial at which each first reaches the best dev study AUC
that the search without a sibling came to; a search that never does counts as one trial
more than it had.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from searches import AREA, SIBLING, phantoms, plan, run, study, trained_start

from mura_tune.database.storage import load_study, open_storage
from mura_tune.database.urls import url_of
from mura_tune.search.manage import copy


def scores(file: Path) -> list[float]:
    """Dev study AUC of each trial in order; pruned ones count as they stood."""
    url = url_of(str(file))
    trials = load_study(open_storage(url), AREA, url).get_trials()
    return [t.value for t in trials if t.value is not None]


def first(values: list[float], goal: float) -> int:
    """The 1-based place of the first value that reaches the goal."""
    return next((i for i, v in enumerate(values, 1) if v >= goal), len(values) + 1)


def main() -> None:
    asked = plan(__doc__)
    trials = asked.trials
    print(
        f"{trials} trials a search, phantoms of {asked.patients} patients an area, small CNN "
        "at 96 px"
    )
    print("seed  goal (dev AUC)  trials to it: alone, warm  saved   best alone, warm")
    saved = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared = phantoms(folder, asked.patients)
        sets = (*asked.sets, f"pretrained={trained_start(folder, *asked.start)}")
        for seed in range(asked.seeds):
            sibling, warm, alone = (folder / f"{kind}{seed}.db" for kind in ("s", "w", "a"))
            run(sibling, prepared[SIBLING], study(SIBLING, seed, trials, *sets))
            copy(url_of(str(sibling)), SIBLING, SIBLING, url_of(str(warm)))
            plain = (*sets, "budget.confirm.top=0")
            run(alone, prepared[AREA], study(AREA, seed, trials, *plain))
            run(warm, prepared[AREA], study(AREA, seed, trials, *plain), "auto")
            without, having = scores(alone), scores(warm)
            goal = max(without)
            counts = first(without, goal), first(having, goal)
            saved.append(counts[0] - counts[1])
            print(
                f"{seed:>4}  {goal:.3f}           {counts[0]:>4} {counts[1]:>4}  {saved[-1]:>+4}"
                f"   {goal:.3f} {max(having):.3f}",
                flush=True,
            )
    print(
        f"trials saved of {trials}: mean {np.mean(saved):+.1f}, median {np.median(saved):+.0f}, "
        f"range {min(saved):+d} to {max(saved):+d}"
    )


if __name__ == "__main__":
    main()
