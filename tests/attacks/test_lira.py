"""LiRA against a slow loop over examples with SciPy, and against theory."""

from fractions import Fraction
from functools import partial
from math import sqrt
from statistics import median

import numpy as np
import pytest
import torch
from scipy.stats import norm

from attacks.lira import fit_sides, lira, lira_offline
from attacks.lira_carlini import lira_carlini
from attacks.metrics.roc import auc, roc


def tpr_at(curve, fpr):
    """The ROC's own TPR at the largest FPR that is allowed."""
    return curve.tpr[curve.fpr <= fpr][-1]


def awkward(kind: str, seed: int = 0):
    """Draw Bernoulli splits of an odd number of models, so that counts differ between examples."""
    rng = np.random.default_rng(seed)
    models, queries, examples = 13, 2, 40
    included = rng.random((models, examples)) < 0.5
    included[:3], included[3:6] = True, False  # at least three per side
    shadows = rng.normal(size=(models, queries, examples)) + 2 * included[:, None]
    target = rng.normal(size=(queries, examples))
    if kind == "ties":
        shadows, target = shadows.round(), target.round()
    elif kind == "saturated":
        shadows[:, :, ::3] *= 1e4
        target[:, ::2] *= 1e4
    elif kind == "zero spread":
        shadows[:, :, ::2] = 1.5
        shadows[:, 0] = -0.25
    return tuple(torch.from_numpy(array) for array in (target, shadows, included))


def slow_fit(shadows, side, spread, location):
    """Location and spread `[queries, examples]` of one side, as the definitions read."""
    _, queries, examples = shadows.shape
    mu, sd = np.zeros((queries, examples)), np.zeros((queries, examples))
    for a in range(queries):
        residuals = []
        for j in range(examples):
            values = [x for x, has in zip(shadows[:, a, j], side[:, j], strict=True) if has]
            mu[a, j] = np.median(values) if location == "median" else np.mean(values)
            sd[a, j] = np.std(values)
            residuals += [x - mu[a, j] for x in values]
        pooled = np.sqrt(np.mean(np.square(residuals)))
        for j in range(examples):
            sd[a, j] = max(pooled if spread == "fixed" else sd[a, j], 0.05 * pooled, 1e-3)
    return mu, sd


def slow_score(target, shadows, included, attack, spread, location):
    target, shadows, included = (t.numpy() for t in (target, shadows, included))
    mu_out, sd_out = slow_fit(shadows, ~included, spread, location)
    if attack == "offline":
        return norm.logcdf(target, mu_out, sd_out).mean(0)
    log_out = norm.logpdf(target, mu_out, sd_out)
    mu_in, sd_in = slow_fit(shadows, included, spread, location)
    return (norm.logpdf(target, mu_in, sd_in) - log_out).mean(0)


FAST = {"online": lira, "offline": lira_offline}


@pytest.mark.parametrize("kind", ["ordinary", "ties", "saturated", "zero spread"])
@pytest.mark.parametrize("attack", FAST)
@pytest.mark.parametrize("spread", ["example", "fixed"])
@pytest.mark.parametrize("location", ["median", "mean"])
def test_lira_matches_a_slow_loop(kind, attack, spread, location):
    signals = awkward(kind)
    expected = slow_score(*signals, attack, spread, location)
    scores = FAST[attack](*signals, spread=spread, location=location)
    # spreads of up to 520 float64 terms are off by 6e-14 of themselves, squares of z by 1e-13
    np.testing.assert_allclose(scores, expected, rtol=1e-9, atol=1e-12)


def test_float32_signals_are_fitted_in_float64():
    target, shadows, included = awkward("saturated")
    target, shadows = target.float(), shadows.float()
    scores = lira(target, shadows, included, spread="example")
    expected = slow_score(
        target.double(), shadows.double(), included, "online", "example", "median"
    )
    np.testing.assert_allclose(scores, expected, rtol=1e-9, atol=1e-12)


class Stored:
    """Signals that record how much of them is read at once, like those on disk."""

    def __init__(self, tensor):
        self.tensor, self.shape, self.dtype, self.largest = tensor, tensor.shape, tensor.dtype, 0

    def __getitem__(self, index):
        values = self.tensor[index]
        self.largest = max(self.largest, values.numel())
        return values


@pytest.mark.parametrize("location", ["median", "mean"])
@pytest.mark.parametrize("stray", [0, 1e4], ids=["together", "one astray"])
@pytest.mark.parametrize(("offset", "scale"), [(0, 1), (1e6, 1e-3), (-1e6, 1e-6)])
def test_moments_are_exact_however_far_from_zero(location, stray, offset, scale):
    """Against exact arithmetic on the same float64 signals.

    A sum of n float64 terms is off by at most n x 2^-53 of the sum of their sizes. Residuals about
    the median are at most sqrt(2) std in the mean, which bounds the mean's error. The variance of n
    of at most 13 residuals is the difference of two sums, of which the larger is at most twice the
    variance: with the roundings of each term, 3 (n + 3) x 2^-53, half of it for the std.
    """
    _, shadows, included = awkward("ordinary")
    shadows[3] += stray  # the mean is then as far from the median as it can be: almost one std
    shadows = offset + scale * shadows
    _, queries, examples = shadows.shape
    unit = 2**-53
    fits = fit_sides(shadows, (included, ~included), location)
    for fit, side in zip(fits, (included, ~included), strict=True):
        for a in range(queries):
            squares = []
            for j in range(examples):
                values = [Fraction(x) for x in shadows[:, a, j][side[:, j]].tolist()]
                mean = sum(values) / len(values)
                # residuals are about the median as it is returned, rounded to a float
                centre = Fraction(float(median(values))) if location == "median" else mean
                std = sqrt(sum((x - mean) ** 2 for x in values) / len(values))
                assert fit.location[a, j].item() == pytest.approx(
                    float(centre), rel=2 * unit, abs=2 * len(values) * unit * std
                )
                assert fit.std[a, j].item() == pytest.approx(std, rel=40 * unit, abs=0)
                squares += [(x - centre) ** 2 for x in values]
            pooled = sqrt(sum(squares) / len(squares))
            assert fit.pooled[a].item() == pytest.approx(pooled, rel=len(squares) * unit, abs=0)


@pytest.mark.parametrize("block", [13, 13 * 7, 13 * 40])
@pytest.mark.parametrize("numbers", [1, 500, 1 << 22])
def test_slices_do_not_matter(monkeypatch, numbers, block):
    target, shadows, included = awkward("ordinary")
    attacks = [lira, lira_offline]
    attacks += [
        partial(lira_carlini, online=o, fixed=f) for o in (True, False) for f in (True, False)
    ]
    whole = [attack(target, shadows, included) for attack in attacks]
    monkeypatch.setattr("attacks.slices.NUMBERS", numbers)
    monkeypatch.setattr("attacks.lira._BLOCK", block)
    stored = Stored(shadows)
    # sums of 520 terms in another order, 6e-14 of a spread, in squares of z of 30 at most
    for attack, expected in zip(attacks, whole, strict=True):
        scores = attack(target, stored, included)
        torch.testing.assert_close(scores, expected, rtol=1e-12, atol=1e-11)
    assert stored.largest <= max(numbers, shadows[..., 0].numel())


@pytest.mark.parametrize("attack", [lira, lira_offline])
@pytest.mark.parametrize(("models", "meaning"), [(31, "fixed"), (32, "example")])
def test_auto_spread_is_fixed_below_32_models_per_side(rng, attack, models, meaning):
    included = (torch.arange(2 * models) < models)[:, None].expand(-1, 20)
    shadows = torch.randn(2 * models, 1, 20, generator=rng)
    target = torch.randn(1, 20, generator=rng)
    auto, explicit = (attack(target, shadows, included, spread=s) for s in ("auto", meaning))
    assert torch.equal(auto, explicit)
    assert not torch.equal(
        attack(target, shadows, included, spread="example"),
        attack(target, shadows, included, spread="fixed"),
    )


def test_a_query_without_spread_does_not_dominate(rng):
    """A low-bit head gives all "in" shadows the same value, and the target is always near it."""
    included = (torch.arange(8) % 2 == 0)[:, None].expand(-1, 400)
    members = torch.arange(400) % 2 == 0
    shadows = torch.randn(8, 2, 400, generator=rng) + 2 * included[:, None]
    target = torch.randn(2, 400, generator=rng) + 2 * members
    shadows[::2, 1, :200] = 0.0
    target[1, :200] = 0.01 * torch.randn(200, generator=rng)
    ours = lira(target, shadows, included, spread="example")
    theirs = lira_carlini(target, shadows, included, online=True, fixed=False)
    assert auc(roc(ours, members)) > auc(roc(theirs, members)) + 0.1


def test_offline_scores_rank_beyond_the_smallest_float():
    included = (torch.arange(4) < 2)[:, None].expand(-1, 3000)
    shadows = torch.tensor([-1.0, 1.0, -1.0, 1.0]).double()[:, None, None].expand(-1, 1, 3000)
    target = torch.linspace(-50, 1e4, 3000).double()[None]
    score = lira_offline(target, shadows, included)  # mu_out 0, sd_out 1
    assert norm.logcdf(target[0, -1]) == norm.logcdf(target[0, -2]) == 0
    assert (score.diff() > 0).all()
    ordinary = target[0] < 35
    np.testing.assert_allclose(score[ordinary], norm.logcdf(target[0, ordinary]), rtol=1e-12)


def numpy_carlini(target, shadows, included, online, fixed):
    """Follow the description of the authors' code, one example at a time."""
    target, shadows, included = (t.numpy() for t in (target, shadows, included))
    examples = shadows.shape[2]

    def truncated(side):
        shortest = min(int(side[:, j].sum()) for j in range(examples))
        return np.stack([shadows[side[:, j], :, j][:shortest] for j in range(examples)])

    inside, outside = truncated(included), truncated(~included)  # [examples, shadows, queries]

    def log_density(values, std):
        std = (std if fixed else values.std(axis=1)) + 1e-30
        return norm.logpdf(target.T, np.median(values, axis=1), std)

    if not online:
        return -log_density(outside, outside.std()).mean(axis=1)
    return (log_density(inside, inside.std()) - log_density(outside, inside.std())).mean(axis=1)


@pytest.mark.parametrize("kind", ["ordinary", "ties", "saturated", "zero spread"])
@pytest.mark.parametrize("online", [True, False])
@pytest.mark.parametrize("fixed", [True, False])
def test_carlini_matches_numpy(kind, online, fixed):
    signals = awkward(kind)
    expected = numpy_carlini(*signals, online, fixed)
    scores = lira_carlini(*signals, online, fixed)
    np.testing.assert_allclose(scores, expected, rtol=1e-9, atol=1e-12)


def test_carlini_is_our_lira_where_nothing_is_truncated_or_floored():
    target, shadows, _ = awkward("ordinary")
    included = (torch.arange(12) % 2 == 0)[:, None].expand(-1, 40)
    signals = target, shadows[:12], included
    torch.testing.assert_close(lira_carlini(*signals, True, False), lira(*signals, "example"))


def test_one_sided_offline_beats_the_authors_two_sided_score(rng):
    """An unusually low phi is no sign of membership."""
    included = (torch.arange(16) % 2 == 0)[:, None].expand(-1, 2000)
    members = torch.arange(2000) % 2 == 0
    shadows = torch.randn(16, 1, 2000, generator=rng) + included[:, None]
    target = torch.randn(1, 2000, generator=rng) + members
    ours = lira_offline(target, shadows, included, "fixed")
    theirs = lira_carlini(target, shadows, included, online=False, fixed=True)
    assert auc(roc(ours, members)) > auc(roc(theirs, members)) + 0.1


@pytest.mark.parametrize("spread", ["example", "fixed"])
def test_gaussian_signals_reach_the_neyman_pearson_curve(rng, spread):
    """With N(mu_j + 1.5, 1) in and N(mu_j, 1) out, the best TPR is Phi(Phi^-1(FPR) + 1.5)."""
    models, examples, shift = 400, 10_000, 1.5
    centres = 3 * torch.randn(examples, generator=rng)
    included = (torch.arange(models) % 2 == 0)[:, None].expand(-1, examples)
    members = torch.rand(examples, generator=rng) < 0.5
    shadows = torch.randn(models, 1, examples, generator=rng) + centres + shift * included[:, None]
    target = torch.randn(1, examples, generator=rng) + centres + shift * members
    ideal = roc((target[0] - centres).double(), members)
    assert auc(ideal).item() == pytest.approx(norm.cdf(shift / np.sqrt(2)), abs=0.015)
    curve = roc(lira(target, shadows, included, spread), members)
    assert auc(curve).item() == pytest.approx(auc(ideal).item(), abs=0.003)
    for fpr in (0.01, 0.1, 0.5):
        best = norm.cdf(norm.ppf(fpr) + shift)
        assert tpr_at(ideal, fpr).item() == pytest.approx(best, abs=0.04)  # 5,000 per side
        assert tpr_at(curve, fpr).item() == pytest.approx(tpr_at(ideal, fpr).item(), abs=0.015)


def test_unequal_spreads_reach_the_likelihood_ratio(rng):
    """With N(mu_j + 1, 1/2) in and N(mu_j, 2) out, no threshold on phi is as good as a square."""
    models, examples = 400, 10_000
    centres = torch.randn(examples, generator=rng).double()
    included = (torch.arange(models) % 2 == 0)[:, None].expand(-1, examples)
    members = torch.rand(examples, generator=rng) < 0.5

    def draw(side, *shape):
        noise = torch.randn(*shape, examples, generator=rng).double()
        return centres + noise * torch.where(side, 0.5, 2.0) + side.double()

    shadows, target = draw(included[:, None], models, 1), draw(members, 1)
    x = (target[0] - centres).numpy()
    ideal = torch.from_numpy(norm.logpdf(x, 1, 0.5) - norm.logpdf(x, 0, 2))
    best = auc(roc(ideal, members)).item()
    area = auc(roc(lira(target, shadows, included, "example"), members)).item()
    assert area == pytest.approx(best, abs=0.01)
    assert area > auc(roc(target[0] - centres, members)).item() + 0.1


@pytest.mark.parametrize(
    "attack", [lira, lira_offline, partial(lira_carlini, online=True, fixed=True)]
)
def test_too_few_shadows_are_refused(attack):
    included = torch.tensor([[True, False], [False, True], [True, True]])
    with pytest.raises(ValueError, match=r"2 shadow models or more .* got 1 for an example"):
        attack(torch.zeros(1, 2), torch.zeros(3, 1, 2), included)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("attack", [lira, lira_offline])
@pytest.mark.parametrize("spread", ["example", "fixed"])
@pytest.mark.parametrize("location", ["median", "mean"])
def test_a_signal_that_is_not_finite_makes_all_scores_nan(value, attack, spread, location):
    """Because the spread over all examples, then unknown, is the floor of each example's own."""
    target, shadows, included = awkward("ordinary")
    shadows[4, 1, 7] = value
    assert not included[4, 7]
    assert attack(target, shadows, included, spread, location).isnan().all()


def test_one_diverged_shadow_is_not_silently_averaged_in(rng):
    included = (torch.arange(8) % 2 == 0)[:, None].expand(-1, 30)
    shadows, target = torch.randn(8, 1, 30, generator=rng), torch.randn(1, 30, generator=rng)
    shadows[3, 0, 5] = torch.nan
    with pytest.raises(ValueError, match="NaN of 30"):
        roc(lira(target, shadows, included, "fixed"), torch.arange(30) % 2 == 0)
