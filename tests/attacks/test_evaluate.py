"""Scores and rows, against attacks run one by one."""

import pytest
import torch
from sklearn.metrics import roc_auc_score

from attacks import ATTACKS, DEFAULT_ATTACKS, Attack
from attacks.evaluate import FPR_GRID, WORDS, choose_attacks, evaluate, lacking, mean_curve, score
from attacks.game import Case, Game, ModelSignals, Shadows, make_cases
from attacks.lira import fit_sides

W2, W4 = "nearest-w2", "nearest-w4"
KINDS = ("full", "matched"), (W2, "matched"), (W2, "unquantized")
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


def alone(attack, targets, shadow_models, case, members):
    """Scores of the target of one case by itself."""
    target, rows = case
    (scores,) = ATTACKS[attack].run(
        targets.of([target]).read(), Shadows(shadow_models.of(rows), members[rows])
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
    wanted += [(variant, "unquantized", attack) for variant in (W4, W2) for attack in SHADOWED]
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
    assert len(by_name(attacks)) == (3 if ATTACKS[attack].shadows else 2)
    for row, scores in attacks:
        shadow_models = signals["full" if row.knowledge == "unquantized" else row.variant]
        aucs = []
        for own, case in zip(scores, cases, strict=True):
            wanted = alone(attack, signals[row.variant], shadow_models, case, members)
            torch.testing.assert_close(own, wanted, rtol=1e-9, atol=1e-9)
            aucs.append(roc_auc_score(members[case.target], wanted))
        assert row.summary.auc.value == pytest.approx(sum(aucs) / len(aucs), abs=1e-12)
        assert row.by_target["auc"] == pytest.approx(aucs, abs=1e-12)
        for metric, values in row.by_target.items():
            assert len(values) == len(cases)
            assert sum(values) / len(cases) == pytest.approx(getattr(row.summary, metric).value)
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
    together = score(list(wanted), game, W2, W2)
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
    score(LIRA, game, W2, W2)
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


def test_missing_signals_are_named(synthetic_fleet, observe):
    """A signal is missing where any variant lacks it."""
    phi, members = synthetic_fleet(shadows=4, examples=20)
    every, bare = observe(phi), ModelSignals(phi)

    def game(*signals):
        return Game(dict(zip("ab", signals, strict=False)), members, make_cases(4, 2))

    for attack in ATTACKS:
        assert lacking(attack, game(every, every)) == []
        wanted = [WORDS[field] for field in ATTACKS[attack].needs]
        assert lacking(attack, game(every, bare)) == wanted
    partial = every._replace(population_hinge=None)
    assert lacking("quantile_regression", game(partial)) == ["logits on a population"]
    small = every._replace(population_hinge=every.population_hinge[..., :19])
    assert lacking("quantile_regression", game(small)) == ["a population of 20"]


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("inside", [0, 1, 2, 4])
@pytest.mark.parametrize("outside", [0, 1, 2, 4])
def test_an_attack_lacks_shadows_exactly_where_it_cannot_run(
    synthetic_fleet, observe, attack, inside, outside
):
    """Every example has `inside` shadows with it and `outside` without it."""
    phi, members = synthetic_fleet(shadows=8, targets=2, examples=30)
    members[:8] = (torch.arange(8) < 4)[:, None]
    rows = [*range(inside), *range(4, 4 + outside)]
    game = Game({W2: observe(phi)}, members, [Case(8, rows), Case(9, rows)])
    if not rows:
        return
    enough = not lacking(attack, game)
    try:
        score([attack], game, W2, W2)
    except ValueError:
        assert not enough
    else:
        assert enough or (attack == "rmia_online" and not inside)  # its mean over all is no error


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


def test_mean_curve_agrees_with_the_table(synthetic_fleet, observe):
    """A grid point at 1% and one at 0.1%, which the table reports as well."""
    phi, members = synthetic_fleet(shadows=8, targets=3, examples=400)
    for row, _ in attack_all({"full": observe(phi)}, members, make_cases(8, 3), DEFAULT_ATTACKS):
        at = dict(zip(FPR_GRID.log10().mul(40).round().int().tolist(), row.tpr, strict=True))
        assert at[-80] == pytest.approx(row.summary.tpr_1pct.value, abs=1e-12)
        assert at[-120] == pytest.approx(row.summary.tpr_01pct.value, abs=1e-12)
        assert at[0] == 1
        assert row.tpr == sorted(row.tpr)


def shift(target, shadows):
    """A toy attack: phi of the first query, so that larger is likelier a member."""
    return target.phi[:, 0].double()


def test_a_registered_attack_is_chosen_and_evaluated(synthetic_fleet, observe, monkeypatch):
    """One registry entry suffices."""
    monkeypatch.setitem(ATTACKS, "toy", Attack(shift, needs=("hinge",), default=False))
    phi, members = synthetic_fleet(shadows=4, examples=40)
    signals, cases = {"full": observe(phi), W2: observe(phi, lambda x: -x)}, make_cases(4, 2)
    game = Game(signals, members, cases)
    assert "toy" not in choose_attacks(None, game)[0]
    assert choose_attacks(["toy", "gap", "toy"], game) == (["toy", "gap"], [])
    rows = by_name(attack_all(signals, members, cases, ["toy"]))
    assert list(rows) == [(v, k, "toy") for v, k in KINDS]
    areas = [roc_auc_score(members[t], phi[t, 0]) for t, _ in cases]
    assert rows["full", "matched", "toy"].by_target["auc"] == pytest.approx(areas)
    mirrored = rows[W2, "unquantized", "toy"].by_target["auc"]
    assert mirrored == pytest.approx([1 - area for area in areas])
    bare = Game({"full": ModelSignals(phi)}, members, cases)
    with pytest.raises(ValueError, match="`toy` needs logits, which not every variant has"):
        choose_attacks(["toy"], bare)
    with pytest.raises(ValueError, match=r"must name attacks, got `toi`\. Did you mean `toy`\?"):
        choose_attacks(["toi"], game)


def test_default_attacks_without_their_signals_are_excluded_with_a_note(synthetic_fleet):
    phi, members = synthetic_fleet(shadows=4, examples=40)
    names, notes = choose_attacks(
        None, Game({"full": ModelSignals(phi)}, members, make_cases(4, 2))
    )
    needing = [name for name in DEFAULT_ATTACKS if ATTACKS[name].needs]
    assert names == [name for name in DEFAULT_ATTACKS if name not in needing]
    assert [note.split()[1] for note in notes] == needing
    assert "Note: gap is excluded: it needs logits." in notes


def test_an_optional_attack_runs_unasked_only_where_its_signals_are_known(synthetic_fleet, observe):
    phi, members = synthetic_fleet(shadows=4, examples=40)
    known, cases = observe(phi), make_cases(4, 2)
    bare = known._replace(embeddings=None, population_embeddings=None)
    names, notes = choose_attacks(None, Game({"full": known, W2: known}, members, cases))
    assert names == [n for n in ATTACKS if n in (*DEFAULT_ATTACKS, "quantile_embeddings")]
    assert notes == []
    game = Game({"full": known, W2: bare}, members, cases)
    assert choose_attacks(None, game) == (list(DEFAULT_ATTACKS), [])
    message = "`quantile_embeddings` needs embeddings, which `train.py --record_embeddings true` ad"
    with pytest.raises(ValueError, match=message):
        choose_attacks(["quantile_embeddings"], game)
