from math import inf

import pytest

from lightning_modules.analytic_options import AnalyticOptions
from lightning_modules.continual_options import ContinualOptions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"buffer": 0}, r"analytic\.buffer` must be 1 or more, got 0"),
        ({"contrastive_epochs": -1}, r"contrastive_epochs` must be 0 or more, got -1"),
        ({"distill_epochs": -2}, r"distill_epochs` must be 0 or more, got -2"),
        ({"worlds": -1}, r"worlds` must be 0 or more, got -1"),
        ({"worlds": 1}, r"worlds` must be 0 \(none\), or 2 or more, got 1: one .* Pass for e"),
        ({"gamma": 0.0}, r"gamma` must be above 0, got 0"),
        ({"gamma": -1.0}, r"gamma` must be above 0, got -1"),
        ({"gamma": inf}, r"gamma` must be above 0, got inf"),
        ({"compensation": 0.0}, r"compensation` must be above 0, got 0"),
        ({"beta": -1.0}, r"beta` must be above 0, got -1"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AnalyticOptions(**options)


@pytest.mark.parametrize(
    ("learner", "options", "message"),
    [
        ("sdmlp", {"worlds": 2}, r"worlds` needs `--continual.learner` acil or dsal or real, got"),
        ("acil", {"compensation": 0.5}, r"compensation` needs `--continual.learner` dsal, got `ac"),
        ("acil", {"beta": 2.0}, r"beta` needs `--continual.learner` real, got `acil`\. Leave it"),
        ("real", {"beta": 2.0}, r"beta` needs `.*analytic\.distill_epochs`, got 0\. Leave it out"),
    ],
)
def test_options_that_nothing_reads_are_refused(learner, options, message):
    with pytest.raises(ValueError, match=message):
        ContinualOptions(5, learner=learner, backbone_epochs=1, analytic=AnalyticOptions(**options))


def test_the_weight_of_a_distillation_is_taken_with_its_epochs():
    options = AnalyticOptions(contrastive_epochs=1, distill_epochs=1, beta=2.0)
    assert ContinualOptions(5, learner="real", backbone_epochs=1, analytic=options).on
