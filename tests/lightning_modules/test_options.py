import inspect
from dataclasses import fields

import pytest
from lightning.pytorch import Trainer

from lightning_modules.classifier import Classifier
from lightning_modules.options import CalibrationOptions, ModelOptions, TrainerOptions


@pytest.mark.parametrize("option", fields(TrainerOptions), ids=lambda option: option.name)
def test_defaults_of_the_trainer_are_lightnings_but_for_one_device(option):
    default = inspect.signature(Trainer).parameters[option.name].default
    assert option.default == (1 if option.name == "devices" else default)


def test_every_option_of_a_model_but_tf32_is_read_by_the_classifier():
    """A flag of the whole process, TF32 is set around the fit."""

    class Spy:
        """Options that remember which of them were read."""

        def __init__(self):
            self.read = set()

        def __getattr__(self, name):
            self.read.add(name)
            return getattr(ModelOptions("convnet"), name)

    spy = Spy()
    inspect.unwrap(Classifier.__init__)(Classifier.__new__(Classifier), 10, 1, 0, spy)
    assert spy.read == {option.name for option in fields(ModelOptions)} - {"tf32"}


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
