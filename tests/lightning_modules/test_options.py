import inspect
from dataclasses import asdict, fields
from math import inf, nan

import pytest
from lightning.pytorch import Trainer

from lightning_modules.classifier import Classifier
from lightning_modules.options import (
    CalibrationOptions,
    DpOptions,
    ModelOptions,
    TrainerOptions,
)


@pytest.mark.parametrize("option", fields(TrainerOptions), ids=lambda option: option.name)
def test_defaults_of_the_trainer_are_lightnings_but_for_one_device(option):
    default = inspect.signature(Trainer).parameters[option.name].default
    assert option.default == (1 if option.name == "devices" else default)


def test_every_option_of_a_model_but_two_is_read_by_the_classifier():
    """A flag of the whole process, TF32 is set around the fit; `dp` makes another classifier."""

    class Spy:
        """Options that remember which of them were read."""

        def __init__(self):
            self.read = set()

        def __getattr__(self, name):
            self.read.add(name)
            return getattr(ModelOptions("convnet"), name)

    spy = Spy()
    inspect.unwrap(Classifier.__init__)(Classifier.__new__(Classifier), 10, 1, 0, spy)
    assert spy.read == {option.name for option in fields(ModelOptions)} - {"tf32", "dp"}


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_smoothing_that_leaves_no_label_is_refused(share):
    ModelOptions(label_smoothing=0.99)
    with pytest.raises(ValueError, match=rf"must be 0 \(none\) to below 1, got {share}"):
        ModelOptions(label_smoothing=share)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": 0}, "`calibration.images` must be 1 or more, got 0"),
        ({"rounds": -1}, r"`calibration.rounds` must be 0 \(not augmented\) or more, got -1"),
    ],
)
def test_counts_that_draw_no_images_are_refused(options, message):
    CalibrationOptions(images=1, rounds=0)
    with pytest.raises(ValueError, match=message):
        CalibrationOptions(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"noise": 0.0},
            r"`model.dp.noise` must be above 0, got 0\. Without noise nothing is",
        ),
        ({"noise": -1.0}, "`model.dp.noise` must be above 0, got -1"),
        ({"noise": inf}, "`model.dp.noise` must be above 0, got inf"),
        ({"noise": nan}, "`model.dp.noise` must be above 0, got nan"),
        ({"epsilon": 0.0}, r"`model.dp.epsilon` must be above 0, got 0\.$"),
        ({"noise": 1.0, "clip": 0.0}, r"`model.dp.clip` must be above 0, got 0\.$"),
        ({"noise": 1.0, "delta": 0.0}, "`model.dp.delta` must be between 0 and 1, got 0"),
        ({"noise": 1.0, "delta": 1.0}, "`model.dp.delta` must be between 0 and 1, got 1"),
        (
            {"noise": 1.5, "epsilon": 8.0},
            "`model.dp.noise` and `model.dp.epsilon` follow from each other, got 1.5 and 8. Leave",
        ),
        (
            {"delta": 1e-5},
            "`model.dp.delta` needs `--model.dp.noise` or `--model.dp.epsilon`, got neither",
        ),
        (
            {"clip": 2.0},
            "`model.dp.clip` needs `--model.dp.noise` or `--model.dp.epsilon`, got neither",
        ),
    ],
)
def test_options_of_privacy_that_prove_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DpOptions(**options)


def test_privacy_is_off_until_it_has_a_noise_or_an_epsilon():
    assert not ModelOptions().dp.on
    assert DpOptions(noise=1.0).on
    assert DpOptions(epsilon=8.0).on
    plain = asdict(ModelOptions("mlp", dp=DpOptions(epsilon=8.0, clip=2.0)))
    assert ModelOptions.read(plain) == ModelOptions("mlp", dp=DpOptions(epsilon=8.0, clip=2.0))
