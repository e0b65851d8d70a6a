"""Recalibration against slow loops, known maps, and LiRA with shadows that were moved instead."""

import numpy as np
import pytest
import torch

from attacks.cases import make_cases
from attacks.evaluate import evaluate, score
from attacks.game import Game, ModelSignals, Shadows
from attacks.lira import lira
from attacks.recalibrate import FEWEST, PER_BIN, Expected, expect, measure, recalibrate

W2, SHADOWS, TARGETS = "nearest-w2", 32, 4
MAPS = {  # offset and ratio of spreads by true difficulty
    "none": (lambda m: 0 * m, lambda m: 0 * m + 1),
    "constant": (lambda m: 0 * m - 3, lambda m: 0 * m + 0.6),
    "by difficulty": (lambda m: -1 - 0.5 * m, lambda m: 1.2 + 0.1 * m.clamp(-4, 4)),
}


def draw(population=2000, examples=1500, leak=1.5, queries=1, models=SHADOWS + TARGETS):
    """A fleet's phi and expected phi on the pool and on a population; its noise has spread 1."""
    rng = torch.Generator().manual_seed(0)
    halves = torch.rand(models, examples, generator=rng).argsort(1) < examples // 2
    pairs = torch.stack([halves, ~halves], 1).flatten(0, 1)
    members = torch.cat([pairs[:SHADOWS], halves[SHADOWS:]])
    difficulties, signals = [], []
    for size in (examples, population):
        difficulties.append(2 * torch.randn(size, generator=rng).double())
        noise = torch.randn(models, queries, size, generator=rng).double()
        signals.append(difficulties[-1] + noise)
    signals[0] += leak * members[:, None]
    return signals, difficulties, members


def move(signal, difficulty, name):
    """Move signals about what is truly expected of them, which no attacker knows."""
    offset, ratio = (f(difficulty) for f in MAPS[name])
    return difficulty + offset + ratio * (signal - difficulty)


def moved_game(name, **options):
    """A game whose models are all moved in one variant."""
    signals, difficulties, members = draw(**options)
    quantized = [move(*pair, name) for pair in zip(signals, difficulties, strict=True)]
    known = {"full": ModelSignals(signals[0], population=signals[1])}
    known[W2] = ModelSignals(quantized[0], population=quantized[1])
    return Game(known, members, make_cases(SHADOWS, TARGETS))


def test_expected_signals_match_a_slow_loop(monkeypatch, rng):
    phi, population = (torch.randn(7, 2, size, generator=rng) for size in (30, 25))
    included = torch.rand(7, 30, generator=rng) < 0.5
    included[0] = False
    monkeypatch.setattr("attacks.slices.NUMBERS", 100)
    expected = expect(phi, included, population)
    for q, j in np.ndindex(2, 30):
        outside = [phi[m, q, j].item() for m in range(7) if not included[m, j]]
        assert expected.outside[q, j].item() == pytest.approx(np.mean(outside), abs=1e-12)
    np.testing.assert_allclose(expected.population, population.double().mean(0), atol=1e-12)
    deviations = np.std(population.double().numpy(), 0, ddof=1)
    np.testing.assert_allclose(expected.variance, deviations**2, rtol=1e-12)
    assert expected.shadows == 7
    phi[1, :, included[1]] = torch.nan  # where a shadow trained on the example it is not read
    assert torch.equal(expect(phi, included, population).outside, expected.outside)
    for wrong in (included | True, included[:1]):
        with pytest.raises(ValueError, match="needs two shadows, and for each example one"):
            expect(phi[: len(wrong)], wrong, population[: len(wrong)])


@pytest.mark.parametrize("size", [FEWEST, PER_BIN, 3 * PER_BIN + 50, 30 * PER_BIN])
def test_each_bin_has_its_own_line_and_spread(rng, size):
    """By `numpy.polyfit` and `numpy.interp`, 1 to 20 bins."""
    mean = 2 * torch.randn(size, generator=rng).double()
    phi = 0.5 * mean.square() + torch.randn(size, generator=rng).double()
    variance = 1 + torch.rand(size, generator=rng).double()
    moved = measure(phi, mean, variance, 16)
    bins = np.array_split(np.argsort(mean.numpy()), max(1, min(20, size // 200)))
    ratios, middles, lines = [], [], []
    for rows in bins:
        x, y = mean.numpy()[rows], (phi - mean).numpy()[rows]
        lines.append(np.polyfit(x, y, 1))
        middles.append((x.mean(), y.mean()))
        left = np.sum((y - np.polyval(lines[-1], x)) ** 2) / (len(x) - 2)
        ratios.append((left / variance.numpy()[rows].mean() - 1 / 16) ** 0.5)
    ends = mean.min().item(), mean.max().item()
    first, last = ((x, np.polyval(lines[i], x)) for x, i in zip(ends, (0, -1), strict=True))
    np.testing.assert_allclose(moved.offsets.T, [first, *middles, last], atol=1e-9)
    np.testing.assert_allclose(moved.ratios[0], [x for x, _ in middles], atol=1e-9)
    np.testing.assert_allclose(moved.ratios[1], ratios, rtol=1e-9)
    grid = np.linspace(-12, 12, 101)
    expected = Expected(torch.from_numpy(grid)[None], mean[None], variance[None], 16)
    own, _ = recalibrate(torch.ones(1, 101), phi[None], expected)
    offset, ratio = (np.interp(grid, *pairs.numpy()) for pairs in moved)
    np.testing.assert_allclose(own[0], grid + (1 - grid - offset) / ratio, rtol=1e-9)


@pytest.mark.parametrize("name", MAPS)
def test_a_known_map_is_taken_back(name):
    """To what 200 examples per bin, and shadows whose mean is itself uncertain, allow.

    Offsets have a relative error of 1 / sqrt(200), ratios of 1 / sqrt(400), and an error of mu by
    1 / sqrt(shadows without the example) is undone as if the target had it: (1 - 1 / ratio) of it
    remains. Over 10 bins, a root mean square is below 1.75 of its expectation in 999 of 1,000.
    """
    signals, difficulties, members = draw()
    own, aside = (
        move(signal, difficulty, name)[SHADOWS:]
        for signal, difficulty in zip(signals, difficulties, strict=True)
    )
    expected = expect(signals[0][:SHADOWS], members[:SHADOWS], signals[1][:SHADOWS])
    back = recalibrate(own, aside, expected)
    for phi, signal, difficulty, count in zip(
        back, signals, difficulties, (SHADOWS / 2, SHADOWS), strict=True
    ):
        ratio = MAPS[name][1](difficulty)
        left = ((1 - 1 / ratio).square().mean() / count).item()
        spread = (signal[SHADOWS:] - difficulty).square().mean().item()
        wanted = (1 / PER_BIN + spread / (2 * PER_BIN) + left) ** 0.5
        errors = (phi - signal[SHADOWS:]).square().mean((1, 2)).sqrt()
        assert errors.max() < 1.75 * wanted
        if name != "none":
            moved = (move(signal, difficulty, name) - signal).square().mean().sqrt()
            assert moved > 5 * errors.max()


def test_recalibrating_the_target_is_moving_the_shadows(rng):
    """One affine map per example, the same for all shadows, leaves LiRA's log ratio as it was."""
    members = (torch.rand(20, 60, generator=rng) < 0.5) | (torch.arange(20) < 2)[:, None]
    members[2:4] = False
    shadows = torch.randn(20, 2, 60, generator=rng).double() + members[:, None]
    offset, ratio = torch.randn(2, 60, generator=rng), 0.5 + torch.rand(2, 60, generator=rng)
    centre = (shadows * ~members[:, None]).sum(0) / (~members).sum(0)
    moved = centre + offset + ratio * (shadows - centre)
    target = 2 * torch.randn(2, 60, generator=rng).double()
    back = centre + (target - centre - offset) / ratio
    scores = lira(back, shadows, members, "example")
    torch.testing.assert_close(scores, lira(target, moved, members, "example"))
    assert (lira(target, shadows, members, "example") - scores).abs().median() > 0.1


@pytest.mark.parametrize("attack", ["lira_online", "lira_online_fixed"])
@pytest.mark.parametrize("name", MAPS)
def test_recalibration_restores_what_a_mismatch_takes(name, attack):
    """What is left of a known map (above) is noise of 0.19 of a spread, or less.

    It adds 0.037 to a variance of 1, so that members 1.5 spreads above the others are 1.8% fewer
    standard deviations from them, which costs an AUC of 0.82 less than 0.01.
    """
    game = moved_game(name)
    rows = {scored.row.knowledge: scored.row for scored in evaluate(game, W2, [attack])}
    assert list(rows) == ["matched", "unquantized", "recalibrated"]
    matched, misled, restored = (row.summary.auc.value for row in rows.values())
    if name == "none":
        assert matched == misled
    else:
        assert misled < matched - 0.03
    before = evaluate(game, "full", [attack])[0].row.summary.auc.value
    assert matched > 0.7
    assert restored == pytest.approx(before, abs=0.01)


def test_no_membership_of_the_target_is_read():
    game = moved_game("constant", population=400, examples=200)
    flipped = game.members.clone()
    flipped[SHADOWS:] = ~flipped[SHADOWS:]
    attacks = ["attack_r", "rmia_offline", "lira_online"]
    scores = [
        torch.stack([*score(attacks, g, W2, "recalibrated").values()])
        for g in (game, game._replace(members=flipped))
    ]
    assert torch.equal(*scores)


def test_queries_and_targets_are_independent():
    signals, _, members = draw(population=300, examples=100, queries=2)
    expected = expect(*(x[:SHADOWS] for x in (signals[0], members, signals[1])))
    own, aside = (signal[SHADOWS:].clone() for signal in signals)
    together = recalibrate(own, aside, expected)
    alone = [recalibrate(*pair, expected) for pair in zip(own, aside, strict=True)]
    for position, whole in enumerate(together):
        assert torch.equal(whole, torch.stack([pair[position] for pair in alone]))
    own[1, 1] += 1
    aside[1, 1] *= 3
    for whole, changed in zip(together, recalibrate(own, aside, expected), strict=True):
        differs = (changed != whole).any(-1)
        assert differs[1, 1]
        assert differs.sum() == 1


def test_examples_without_a_finite_signal_are_not_used():
    signals, _, members = draw(population=FEWEST + 1, examples=50)
    included, own = members[:SHADOWS], signals[0][SHADOWS:]
    kept = expect(signals[0][:SHADOWS], included, signals[1][:SHADOWS, :, 1:])
    wanted, _ = recalibrate(own, signals[1][SHADOWS:, :, 1:], kept)
    for broken in (0, SHADOWS):  # a shadow, the first target
        aside = signals[1].clone()
        aside[broken, :, 0] = torch.inf
        expected = expect(signals[0][:SHADOWS], included, aside[:SHADOWS])
        phi, _ = recalibrate(own, aside[SHADOWS:], expected)
        torch.testing.assert_close(phi[0], wanted[0], rtol=1e-12, atol=1e-12)
    aside[SHADOWS, :, :2] = torch.nan
    phi, population = recalibrate(own, aside[SHADOWS:], expected)
    for signal in (phi, population):
        assert signal.isnan().all(-1).all(-1).tolist() == [True, False, False, False]


@pytest.mark.parametrize("alike", ["target", "shadows", "both"])
def test_models_that_are_all_alike_give_finite_signals(alike):
    signals, _, members = draw(population=500, examples=60)
    for signal in signals:
        if alike != "shadows":
            signal[SHADOWS:] = 1.5
        if alike != "target":
            signal[:SHADOWS] = -1
    expected = expect(*(x[:SHADOWS] for x in (signals[0], members, signals[1])))
    for signal in recalibrate(*(signal[SHADOWS:] for signal in signals), expected):
        assert signal.isfinite().all()


def test_it_is_offered_where_it_can_be_done():
    game = moved_game("constant", population=FEWEST, examples=40)
    kinds = ["matched", "unquantized", "recalibrated"]
    assert list(game.shadow_variants(W2)) == kinds
    assert list(game.shadow_variants("full")) == kinds[:1]
    assert game.lacking_to_recalibrate(W2) == []

    def lacking(**changes):
        fewer = game._replace(**changes)
        assert "recalibrated" not in fewer.shadow_variants(W2)
        return fewer.lacking_to_recalibrate(W2)

    full, few = game.signals["full"], torch.zeros(SHADOWS + TARGETS, 1, FEWEST - 1)
    bare, few = (full._replace(population=population) for population in (None, few))
    assert lacking(signals={"full": bare, W2: game.signals[W2]}) == ["signals on a population"]
    assert lacking(signals={"full": full, W2: few}) == ["a population of 100"]
    assert lacking(signals={W2: game.signals[W2]}) == ["full-precision shadows"]
    members = game.members.clone()
    members[:SHADOWS, 3] = True
    assert lacking(members=members) == ["1 shadow without each example"]


def test_shadows_average_once_for_all_targets(monkeypatch):
    game, calls = moved_game("constant", population=200, examples=40), []
    real = expect
    monkeypatch.setattr("attacks.game.expect", lambda *a: calls.append(a) or real(*a))
    monkeypatch.setattr("attacks.evaluate._CHUNK", 1)  # one target at a time
    score(["lira_online", "attack_r"], game, W2, "recalibrated")
    assert len(calls) == 1
    rows = list(range(SHADOWS))
    shadows = Shadows(game.signals["full"].of(rows), game.members[rows])
    target = game.signals[W2].of([SHADOWS]).read()
    moved = shadows.recalibrate(target)
    assert moved.hinge is target.hinge
    for got, wanted in zip(
        (moved.phi, moved.population),
        recalibrate(target.phi, target.population, shadows.expected),
        strict=True,
    ):
        assert torch.equal(got, wanted)
