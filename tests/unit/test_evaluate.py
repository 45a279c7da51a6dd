"""An evaluation says which studies test consists of."""

from dataclasses import replace

import numpy as np
from untrained import CPU

from mura_tune.data.prepare import Prepared
from mura_tune.evaluation.evaluate import SPLIT_NAMES, load_test
from mura_tune.release_format.metrics_entries import HELD_OUT_TEST, PUBLISHED_TEST


def test_test_is_named_by_what_the_dataset_publishes(prepared: Prepared) -> None:
    published = load_test(prepared, CPU)
    assert SPLIT_NAMES[published.name] == PUBLISHED_TEST
    nothing = replace(prepared, frame=prepared.frame.assign(published="train"))
    held_out = load_test(nothing, CPU)
    assert SPLIT_NAMES[held_out.name] == HELD_OUT_TEST
    np.testing.assert_array_equal(held_out.paths, published.paths)
