"""Which learner trains a model: in one place, by DP-SGD, or over clients."""

from datamodules.images import ImageDataModule
from lightning_modules.classifier import Classifier
from lightning_modules.federated import FederatedClassifier
from lightning_modules.federated_options import FederatedOptions
from lightning_modules.options import ModelOptions
from lightning_modules.private import PrivateClassifier


def make_classifier(
    data: ImageDataModule,
    seed: int,
    options: ModelOptions,
    federated: FederatedOptions | None = None,
) -> Classifier:
    """A model for the classes and the images of a data set, trained as its options say."""
    if federated is not None and federated.on:
        return FederatedClassifier(data, seed, options, federated)
    private = options.dp.on
    return (PrivateClassifier if private else Classifier.for_data)(data, seed, options)
