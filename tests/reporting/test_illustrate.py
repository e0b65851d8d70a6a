"""All figures of the report."""

import torch

from reporting.illustrate import CAPTIONS, illustrate


def test_every_figure_that_has_something_to_show_is_drawn(results, findings):
    drawings = illustrate(results, findings, pictures(3, 160).__getitem__)
    always = ["plane", "roc", "convergence", "gallery", "layers"]
    assert list(drawings) == always  # these have no records of cost, and were not pruned
    assert list(CAPTIONS) == [*always, "cost", "bits", "choice", "pruning", "rounds", "tasks"]
    assert drawings["gallery"].chart is None
    assert all(drawing.chart for name, drawing in drawings.items() if name != "gallery")
    assert "mean over 2 audited models" in drawings["layers"].caption


def test_figures_with_nothing_to_show_are_not_drawn(results, findings):
    """No images, no record of a quantization, no attack with matched shadows."""
    variants = {v: facts._replace(quantization=None) for v, facts in results.variants.items()}
    bare = results._replace(variants=variants)
    drawings = illustrate(bare, findings | {"convergence": {}}, None)
    assert list(drawings) == ["plane", "roc"]


def pictures(channels, count=30):
    """Images of which no two are alike, nor two of their channels."""
    values = torch.arange(count * channels * 12) % 251
    return values.to(torch.uint8).reshape(count, channels, 3, 4)
