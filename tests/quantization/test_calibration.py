import json

import pytest
import torch

from quantization.calibration import Calibration, LayerRecord, Record, check_count, wanted
from quantization.variant import Variant


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("adaround-w2", (500, 3)),
        ("obc-w2", (500, 3)),
        ("nearest-w2-bn", (500, 3)),
        ("adaround-w2-paper", (1024, 3)),
        ("brecq-w1.58-paper-fisher", (1024, 3)),
        ("obc-w4-paper", (2048, 10)),
    ],
)
def test_the_papers_variants_take_its_numbers(name, expected):
    assert wanted(Variant.parse(name), 500, 3) == expected


@pytest.mark.parametrize(
    ("name", "fewest", "reason"),
    [
        ("adaround-w2", 1, "to look at"),
        ("obc-w2-paper", 2, "to estimate BatchNorm's statistics from"),
        ("gptq-w2-bn", 2, "to estimate BatchNorm's statistics from"),
        ("nearest-w2-bn", 2, "to estimate BatchNorm's statistics from"),
        ("brecq-w2-paper", 32, "for a batch of its loop"),
        ("adaround-w2-paper-bn", 32, "for a batch of its loop"),
    ],
)
def test_too_few_images_name_the_variant_the_reason_and_the_way_out(name, fewest, reason):
    variant = Variant.parse(name)
    check_count(variant, fewest)
    message = f"`{name}` needs {fewest} calibration images or more {reason}, got {fewest - 1}. "
    with pytest.raises(ValueError, match=message) as caught:
        check_count(variant, fewest - 1)
    # the paper's variants have a number of their own, so the option would not help
    assert ("--calibration.images" in str(caught.value)) is not variant.paper
    assert "Enlarge the pool" in str(caught.value)


def test_a_record_by_hand():
    variant = Variant.parse("brecq-w1.58-last8-heldout")
    layer = LayerRecord("block.conv", "block", 1.58, 72, 0.25, 0.5, 0.125, 1.5)
    record = Record(variant, "what was minimised", ["block"], [layer], 2.5)
    images = torch.zeros(3, 1, 2, 2)
    calibration = Calibration(
        images, lambda number: images, torch.tensor([4, 0, 7]), "heldout", seed=1, rounds=2
    )
    expected = {
        "variant": "brecq-w1.58-last8-heldout",
        "objective": "what was minimised",
        "calibration": {"source": "heldout", "images": 3, "indices": [4, 0, 7]},
        "units": ["block"],
        "layers": [
            {
                "name": "block.conv",
                "unit": "block",
                "bits": 1.58,
                "weights": 72,
                "flipped": 0.25,
                "error_before": 0.5,
                "error_after": 0.125,
                "seconds": 1.5,
            }
        ],
        "seconds": 2.5,
    }
    assert json.loads(json.dumps(record.as_json(calibration))) == expected
    assert record.as_json(None) == expected | {"calibration": None}
