"""Which learner trains a model: in one place, by DP-SGD, over clients, or in tasks."""

from datamodules.images import ImageDataModule
from lightning_modules.analytic import AnalyticClassifier
from lightning_modules.classifier import Classifier
from lightning_modules.continual import ContinualClassifier, list_classes
from lightning_modules.continual_options import ContinualOptions
from lightning_modules.federated import FederatedClassifier
from lightning_modules.federated_options import FederatedOptions
from lightning_modules.options import ModelOptions
from lightning_modules.private import PrivateClassifier
from lightning_modules.real import RealClassifier
from lightning_modules.sparse_memory import DistilledMemoryClassifier, SparseMemoryClassifier

LEARNERS: dict[str, type[ContinualClassifier]] = {  # by `--continual.learner`
    "finetune": ContinualClassifier,
    **dict.fromkeys(("relu", "topk", "sdmlp"), SparseMemoryClassifier),
    "ssd": DistilledMemoryClassifier,
    **dict.fromkeys(("acil", "dsal"), AnalyticClassifier),
    "real": RealClassifier,
}


def make_classifier(
    data: ImageDataModule,
    seed: int,
    options: ModelOptions,
    federated: FederatedOptions | None = None,
    continual: ContinualOptions | None = None,
) -> Classifier:
    """A model for the classes and the images of a data set, trained as its options say."""
    if federated is not None and federated.on:
        return FederatedClassifier(data, seed, options, federated)
    if continual is not None and continual.on:
        classes = list_classes(continual, data.num_classes)
        return LEARNERS[continual.learner](data, seed, options, continual, classes)
    private = options.dp.on
    return (PrivateClassifier if private else Classifier.for_data)(data, seed, options)
