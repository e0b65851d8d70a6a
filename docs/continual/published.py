"""Published accuracies of the learners, and what differs from the fleets here."""

from typing import NamedTuple

BACKBONE = "features of a ConvMixer trained on ImageNet32, 10,000 hidden units, 2,000 epochs a task"
AUGMENTED = "ResNet-32 trained 300 epochs on half of the classes with augmentation, 8,192 features"


class Published(NamedTuple):
    """One published result.

    Attributes:
        learner: its fleet here.
        setting: data set and tasks.
        average: mean over stages of the accuracy on all classes seen so far; empty if not given.
        last: accuracy at the end.
        backward: change of accuracy of earlier tasks; empty if not given.
        differs: what is otherwise here.
        source: where the numbers are from.
    """

    learner: str
    setting: str
    average: str
    last: str
    backward: str
    differs: str
    source: str


SSD = "[arXiv 2512.15267](https://arxiv.org/abs/2512.15267), as a third party sums it up"
ACIL = "[README of the authors' code](https://github.com/ZHUANGHP/Analytic-continual-learning)"
RESULTS = [
    Published("sdmlp", "Split CIFAR-10, 5 tasks", "", "71%", "-18.3 points", BACKBONE, SSD),
    Published("ssd", "Split CIFAR-10, 5 tasks", "", "81%", "-12.3 points", BACKBONE, SSD),
    Published("ssd-ewc", "Split CIFAR-10, 5 tasks", "", "87%", "", BACKBONE, SSD),
    Published("acil", "CIFAR-100, 50 classes and 25 tasks", "71.0%", "63.4%", "", AUGMENTED, ACIL),
    Published("dsal", "CIFAR-100, 50 classes and 25 tasks", "71.3%", "64.0%", "", AUGMENTED, ACIL),
]
