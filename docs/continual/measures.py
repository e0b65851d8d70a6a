"""What is measured of a learner in tasks: of its leakage, and of its accuracy."""

from attacks.metrics.measures import Metric

MEASURES: tuple[Metric, ...] = ("auc", "tpr_1pct")
ACCURACY = "accuracy"
