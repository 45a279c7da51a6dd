"""Each list of choices stands once, in recipe: what implements it has the same names."""

from mura_tune import recipe
from mura_tune.metrics.operating_points import MONITOR_MEASURES
from mura_tune.training.batches import SAMPLING_ORDERS
from mura_tune.training.losses import LOSS_FORMS
from mura_tune.training.optim import OPTIMISER_CLASSES


def test_every_choice_of_a_recipe_is_implemented_and_no_other() -> None:
    assert tuple(LOSS_FORMS) == recipe.LOSSES
    assert tuple(OPTIMISER_CLASSES) == recipe.OPTIMISERS
    assert tuple(SAMPLING_ORDERS) == recipe.SAMPLINGS
    assert tuple(MONITOR_MEASURES) == recipe.MONITORS
