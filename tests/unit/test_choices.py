"""Each list of choices stands once, below what uses it: what implements it has the same names."""

from mura_tune import recipe
from mura_tune.areas import TASK_NAMES
from mura_tune.files import EXPORTS
from mura_tune.metrics.operating_points import MONITOR_MEASURES
from mura_tune.release.exports import WRITERS
from mura_tune.release.release_tasks import RELEASE_TASKS
from mura_tune.release_format.manifest import MANIFESTS
from mura_tune.training.batches import SAMPLING_ORDERS
from mura_tune.training.losses import LOSS_FORMS
from mura_tune.training.optim import OPTIMISER_CLASSES
from mura_tune.training.tasks import TASKS


def test_every_choice_of_a_recipe_is_implemented_and_no_other() -> None:
    assert tuple(LOSS_FORMS) == recipe.LOSSES
    assert tuple(OPTIMISER_CLASSES) == recipe.OPTIMISERS
    assert tuple(SAMPLING_ORDERS) == recipe.SAMPLINGS
    assert tuple(MONITOR_MEASURES) == recipe.MONITORS


def test_every_task_and_every_export_is_implemented_and_no_other() -> None:
    assert tuple(TASKS) == TASK_NAMES == tuple(RELEASE_TASKS) == tuple(MANIFESTS)
    assert tuple(WRITERS) == tuple(EXPORTS)
