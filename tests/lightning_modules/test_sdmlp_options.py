import pytest

from lightning_modules.continual_options import ContinualOptions
from lightning_modules.sdmlp_options import SdmlpOptions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 1}, r"sdmlp\.hidden` must be 2 or more, got 1"),
        ({"k": 0}, r"sdmlp\.k` must be 1 or more, got 0"),
        ({"switch": 0.0}, r"switch` must be above 0 and below .*, got 0\. Leave it out"),
        ({"switch": 1e30}, r"got 1e\+30"),
        ({"alpha": 1.5}, r"alpha` must be 0 to 1, got 1\.5"),
        ({"lam": -0.1}, r"lam` must be 0 to 1, got -0\.1"),
        ({"temperature": 0.0}, r"temperature` must be above 0, got 0"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SdmlpOptions(**options)


@pytest.mark.parametrize(
    ("learner", "options", "message"),
    [
        ("topk", {"hidden": 8}, r"k` must be 1 to 7, below .*, got 10\. Lower it, or widen"),
        ("sdmlp", {"hidden": 10}, r"k` must be 1 to 9"),
        ("ssd", {"units": 9}, r"units` must be `k` to `hidden`, 10 to 1000, got 9"),
        ("ssd", {"units": 2000}, r"10 to 1000, got 2000"),
        ("ssd", {"k": 1}, r"units` must be 2 or more .* got 1: .* `--continual.sdmlp.units 10`"),
        ("relu", {"k": 5}, r"k` needs `--continual.learner` topk or sdmlp or ssd, got `relu`"),
        ("sdmlp", {"units": 20}, r"units` needs `--continual.learner` ssd, got `sdmlp`"),
        ("ssd", {"alpha": 1.0, "lam": 0.5}, r"lam` needs `.*alpha` below 1, got 1, which distils"),
        ("ssd", {"alpha": 1.0, "temperature": 2.0}, r"temperature` needs `.*alpha` below 1, got 1"),
        ("ssd", {"alpha": 1.0, "units": 20}, r"units` needs `--continual\.sdmlp\.alpha` below 1"),
        ("ssd", {"alpha": 1.0, "forward_kl": False}, r"forward_kl` needs .*alpha` below 1, got 1"),
        ("ssd", {"alpha": 1.0, "activations": "before"}, r"activations` needs .*alpha` below 1"),
        ("ssd", {"lam": 0.0, "units": 20}, r"units` needs .*lam` above 0, got 0, .* no neurons"),
        ("ssd", {"lam": 0.0, "activations": "before"}, r"activations` needs .*lam` above 0, got 0"),
    ],
)
def test_what_a_learner_cannot_follow_or_does_not_read_is_refused(learner, options, message):
    with pytest.raises(ValueError, match=message):
        ContinualOptions(5, learner=learner, sdmlp=SdmlpOptions(**options))


@pytest.mark.parametrize(
    ("learner", "options"),
    [
        ("relu", {"hidden": 8}),
        ("ssd", {"k": 1, "units": 10}),
        ("ssd", {"k": 1, "lam": 0.0}),
        ("ssd", {"k": 1, "alpha": 1.0}),
        ("ssd", {"alpha": 0.0, "lam": 0.0, "temperature": 2.0}),
    ],
)
def test_what_a_learner_can_follow_is_taken(learner, options):
    assert ContinualOptions(5, learner=learner, sdmlp=SdmlpOptions(**options)).on
