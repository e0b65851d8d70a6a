"""Scores and rows, against attacks run one by one."""

import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from attacks import ATTACKS, DEFAULT_ATTACKS, Attack
from attacks.cases import make_cases
from attacks.evaluate import FPR_GRID, evaluate, mean_curve, score
from attacks.game import Game, ModelSignals, Shadows
from attacks.lira import fit_sides

W2, W4 = "nearest-w2", "nearest-w4"
KINDS = ("full", "matched"), (W2, "matched"), (W2, "unquantized"), (W2, "recalibrated")
FULL_PRECISION = "unquantized", "recalibrated"  # kinds with such shadows
FREE = [name for name in DEFAULT_ATTACKS if not ATTACKS[name].shadows]
SHADOWED = [name for name in DEFAULT_ATTACKS if ATTACKS[name].shadows]
LIRA = [name for name in DEFAULT_ATTACKS if name.startswith("lira")]


def attack_all(signals, members, cases, attacks):
    """Attack every variant of a game."""
    game = Game(signals, members, cases)
    return [scored for variant in game.variants for scored in evaluate(game, variant, attacks)]


def by_name(attacks):
    """Rows by their first three fields, no two of which may be alike."""
    rows = [scored.row for scored in attacks]
    named = {row[:3]: row for row in rows}
    assert len(named) == len(rows)
    return named


def alone(attack, targets, shadow_models, case, members, recalibrated=False):
    """Scores of the target of one case by itself."""
    position, rows = case
    target, shadows = targets.of([position]).read(), Shadows(shadow_models.of(rows), members[rows])
    (scores,) = ATTACKS[attack].run(
        shadows.recalibrate(target) if recalibrated else target, shadows
    )
    return scores


def test_a_row_for_each_variant_knowledge_and_attack(synthetic_fleet, observe):
    phi, members = synthetic_fleet(shadows=6, examples=60)
    variants = dict.fromkeys(("full", W4, W2), observe(phi))
    attacks = attack_all(variants, members, make_cases(6, 2), DEFAULT_ATTACKS)
    rows = [scored.row for scored in attacks]
    assert (len(FREE), len(SHADOWED)) == (3, 7)
    wanted = [(variant, "none", attack) for variant in variants for attack in FREE]
    wanted += [(variant, "matched", attack) for variant in variants for attack in SHADOWED]
    wanted += [(v, kind, a) for v in (W4, W2) for kind in FULL_PRECISION for a in SHADOWED]
    assert sorted(row[:3] for row in rows) == sorted(wanted)
    assert {(row.attack in FREE, row.shadows) for row in rows} == {(True, 0), (False, 6)}
    order = [row.variant for row in rows]
    assert order == sorted(
        order, key=list(variants).index
    )  # the rows of one variant stand together
    assert all(row.summary.targets == 2 and row.summary.non_members == 30 for row in rows)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("targets", [0, 3], ids=["leave-one-out", "targets"])
def test_a_row_is_the_attack_on_each_target_averaged(synthetic_fleet, observe, attack, targets):
    full, members = synthetic_fleet(shadows=8, targets=targets, examples=80)

    def quantize(x):
        return 0.5 * x + torch.randn(x.shape, generator=torch.Generator().manual_seed(1))

    signals = {"full": observe(full), W2: observe(full, quantize)}
    cases = make_cases(8, targets)
    attacks = attack_all(signals, members, cases, [attack])
    assert len(by_name(attacks)) == (4 if ATTACKS[attack].shadows else 2)
    for row, scores in attacks:
        shadow_models = signals["full" if row.knowledge in FULL_PRECISION else row.variant]
        recalibrated = row.knowledge == "recalibrated"
        aucs = []
        for own, case in zip(scores, cases, strict=True):
            seen = signals[row.variant]
            wanted = alone(attack, seen, shadow_models, case, members, recalibrated)
            torch.testing.assert_close(own, wanted, rtol=1e-9, atol=1e-9)
            aucs.append(roc_auc_score(members[case.target], wanted))
        assert row.summary.auc.value == pytest.approx(sum(aucs) / len(aucs), abs=1e-12)
        assert row.by_target["auc"] == pytest.approx(aucs, abs=1e-12)
        for metric, values in row.by_target.items():
            assert len(values) == len(cases)
            mean = min(max(sum(values) / len(cases), 0), 1)  # a TPR less its surplus may be below 0
            assert mean == pytest.approx(getattr(row.summary, metric).value)
        assert row.summary.targets == len(cases)


@pytest.mark.parametrize("chunk", [1, 200, 1 << 22])
@pytest.mark.parametrize("targets", [0, 3], ids=["leave-one-out", "targets"])
def test_targets_score_the_same_together_and_alone(
    synthetic_fleet, observe, monkeypatch, targets, chunk
):
    phi, members = synthetic_fleet(shadows=8, targets=targets, examples=80)
    signals = observe(phi)
    cases, fits = make_cases(8, targets)[::-1], []
    wanted = {
        attack: [alone(attack, signals, signals, case, members) for case in cases]
        for attack in ("lira_online", "rmia_online")
    }
    monkeypatch.setattr("attacks.evaluate._CHUNK", chunk)
    real = ATTACKS["lira_online"]

    def run(target, shadows):
        fits.append(len(target.phi))
        return real.run(target, shadows)

    monkeypatch.setitem(ATTACKS, "lira_online", real._replace(run=run))
    game = Game({W2: signals}, members, cases)
    together = score(list(wanted), game, W2)
    assert list(together) == list(wanted)
    for attack, scores in together.items():
        assert torch.equal(scores, torch.stack(wanted[attack]))
    # pairs share their shadows, targets all of them; a target has 160 signals
    assert fits == [1] * len(cases) if chunk < 320 else [2, 2, 2, 2] if not targets else [3]


def test_shadows_are_fitted_once_for_all_attacks(synthetic_fleet, monkeypatch):
    """In one reading for both sides, the four forms of LiRA and all targets."""
    phi, members = synthetic_fleet(shadows=8, targets=3, examples=80)
    fits, real = [], fit_sides
    monkeypatch.setattr("attacks.game.fit_sides", lambda *a: fits.append(a) or real(*a))
    game = Game({W2: ModelSignals(phi)}, members, make_cases(8, 3))
    score(LIRA, game, W2)
    assert len(LIRA) == 4
    assert len(fits) == 1


def test_an_excluded_model_is_never_read(synthetic_fleet, observe):
    phi, members = synthetic_fleet(shadows=8, targets=2, examples=60)
    kept, signals = [0, 1, 4, 5, 6, 7, 9], observe(phi)
    wanted = by_name(
        attack_all({"full": signals.of(kept)}, members[kept], make_cases(6, 1), list(ATTACKS))
    )
    for signal in signals[:4]:
        signal[[2, 3, 8]] = torch.nan
    attacks = attack_all({"full": signals}, members, make_cases(8, 2, [3, 8]), list(ATTACKS))
    assert by_name(attacks) == wanted


@pytest.mark.parametrize("decimals", [0, 6], ids=["ties", "no-ties"])
def test_mean_curve_matches_a_slow_loop(rng, decimals):
    members = torch.rand(3, 50, generator=rng) < 0.4
    scores = (torch.randn(3, 50, generator=rng) + members).round(decimals=decimals)
    scores[0, :2] = torch.inf
    scores[1] = 0  # a target with nothing but ties: one step from (0, 0) to (1, 1)
    curve = mean_curve(scores, members)
    for x, y in zip(FPR_GRID.tolist(), curve, strict=True):
        best = []
        for row, inside in zip(scores, members, strict=True):
            rates = [(0.0, 0.0)]
            for threshold in row:
                guessed = row >= threshold
                fpr = (guessed & ~inside).sum().item() / (~inside).sum().item()
                rates.append((fpr, (guessed & inside).sum().item() / inside.sum().item()))
            best.append(max(tpr for fpr, tpr in rates if fpr <= x + 1e-12))
        assert y == pytest.approx(sum(best) / 3, abs=1e-12)


def test_mean_curve_agrees_with_each_targets_own_roc(synthetic_fleet, observe):
    """A grid point at 1% and one at 0.1%; the table's thresholds are common to several targets."""
    phi, members = synthetic_fleet(shadows=8, targets=3, examples=400)
    attacks = attack_all({"full": observe(phi)}, members, make_cases(8, 3), DEFAULT_ATTACKS)
    for row, scores in attacks:
        at = dict(zip(FPR_GRID.log10().mul(40).round().int().tolist(), row.tpr, strict=True))
        curves = [roc_curve(*pair)[:2] for pair in zip(members[-3:], scores, strict=True)]
        for place, fpr in ((-80, 0.01), (-120, 0.001)):
            rates = [tpr[false <= fpr].max() for false, tpr in curves]
            assert at[place] == pytest.approx(sum(rates) / 3, abs=1e-12)
        assert at[0] == 1
        assert row.tpr == sorted(row.tpr)


def shift(target, shadows):
    """A toy attack: phi of the first query, so that larger is likelier a member."""
    return target.phi[:, 0].double()


def test_a_registered_attack_is_evaluated(synthetic_fleet, observe, monkeypatch):
    """One registry entry suffices."""
    monkeypatch.setitem(ATTACKS, "toy", Attack(shift, needs=("hinge",), default=False))
    phi, members = synthetic_fleet(shadows=4, examples=40)
    signals, cases = {"full": observe(phi), W2: observe(phi, lambda x: -x)}, make_cases(4, 2)
    rows = by_name(attack_all(signals, members, cases, ["toy"]))
    assert list(rows) == [(v, k, "toy") for v, k in KINDS]
    areas = [roc_auc_score(members[t], phi[t, 0]) for t, _ in cases]
    assert rows["full", "matched", "toy"].by_target["auc"] == pytest.approx(areas)
    mirrored = rows[W2, "unquantized", "toy"].by_target["auc"]
    assert mirrored == pytest.approx([1 - area for area in areas])
