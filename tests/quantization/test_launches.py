import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_modules.networks import resnet8
from quantization import launches as module
from quantization.calibration import Calibration
from quantization.launches import GREEDY_STEP, Launches, count_quantization
from quantization.methods import METHODS
from quantization.quantize import quantize_network
from quantization.rounding.adaround import Settings
from quantization.variant import Variant


@pytest.fixture
def calibration(rng):
    images = torch.randn(32, 3, 8, 8, generator=rng)
    return Calibration(images, lambda _: images, torch.arange(32), "members", 0)


def test_views_and_allocations_launch_nothing():
    values = torch.ones(2, 3)
    with Launches() as launches:
        values.t().reshape(3, 2)[0].unsqueeze(0).expand(4, 2)
        torch.empty(3)
    copied = launches.count  # the transposed matrix is reshaped
    with Launches() as launches:
        (values + 1).relu_().sum()
    assert (copied, launches.count) in ((0, 3), (1, 3))


def test_a_published_loop_is_counted_as_all_of_its_steps(calibration, monkeypatch):
    """The oracle runs every step, and torch's own counter counts operations."""
    network, variant = resnet8(10, 3).eval(), Variant.parse("brecq-w2-paper")
    loop = Settings(iterations=12, warmup=0.0, batch=16)
    paper = METHODS["brecq"].paper._replace(loop=loop)
    monkeypatch.setitem(METHODS, "brecq", METHODS["brecq"]._replace(paper=paper))
    counts = []
    for steps in (1, 13):
        with FlopCounterMode(display=False) as counter, Launches() as launches:
            quantize_network(network, variant, calibration, {}, loop._replace(iterations=steps))
        counts.append((launches.count, counter.get_total_flops()))
    expected = tuple(after - before for before, after in zip(*counts, strict=True))
    assert count_quantization(network, variant, calibration, {}) == expected


def test_operations_of_adarounds_loop_by_hand(calibration):
    """A step computes a layer's output and its weights' gradient; the inputs need none."""
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten())
    network = nn.Sequential(nn.Conv2d(3, 8, 3), pool, nn.Linear(72, 10))
    image = 2 * (2 * 36 * 8 * 27 + 2 * 72 * 10)
    work = count_quantization(network, Variant.parse("adaround-w2-paper"), calibration, {})
    assert work.flop == 20_000 * 32 * image


@pytest.mark.parametrize(("space", "batches"), [(2**30, (1, 1)), (72**2, (8, 10)), (1, (8, 10))])
def test_obcs_greedy_steps_by_hand(monkeypatch, calibration, space, batches):
    """8 rows of 27 columns, and 10 of 72 in two blocks, one at a time where space is short."""
    monkeypatch.setattr(module, "GPU_SPACE", space)
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten())
    network = nn.Sequential(nn.Conv2d(3, 8, 3), pool, nn.Linear(72, 10))
    first = 2 if space == 72**2 else batches[0]  # 7 inverses of 27 columns fit
    steps = 27 * first + 72 * batches[1]
    variant = Variant.parse("obc-w2")
    launches = GREEDY_STEP * steps + 3 * 10
    assert count_quantization(network, variant, calibration, {}) == (launches, 0)


def test_other_solvers_are_not_counted(calibration):
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 10))
    for name in ("nearest-w2", "adaround-w2", "gptq-w2"):
        assert count_quantization(network, Variant.parse(name), calibration, {}) == (0, 0)
