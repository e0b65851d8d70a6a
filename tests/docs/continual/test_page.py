"""The page on learning in tasks: what it compares, and what it says of that."""

import re
import shlex
import shutil

import pytest
from matplotlib.image import imread

from attacks.continual.precisions import Holder, PrecisionLeak
from attacks.continual.variants import RoundedLeak, VariantLeak
from attacks.game import FULL
from attacks.metrics.differences import Difference
from attacks.metrics.intervals import Estimate
from docs.continual import charts, claims, ridge, sentences, tables
from docs.continual.claims import Comparisons, change
from docs.continual.fleets import read
from docs.continual.measures import ACCURACY
from docs.continual.numbers import (
    LOSS,
    STRONGEST,
    WORLDS,
    Asked,
    Head,
    Side,
    can_attack,
)
from docs.continual.page import DOCUMENTS, HERE, commands, main, render
from docs.study.null import read_nulls
from fleet.options import parse

ROUNDED = {"buffer": 512, "gamma": 1.0, "quantized_worlds": ["nearest-w2", "obc-w2"]}
DIGITS = DOCUMENTS["digits"]
EVERY = "finetune", "sdmlp", "ssd", "acil"


@pytest.fixture(scope="module")
def comparisons(fleets):
    return Comparisons(fleets)


def plain(text):
    return " ".join(text.split())


def flatten(options):
    """Options with their values, by their names after the section's."""
    for key, value in options.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{name}", known) for name, known in flatten(value))
        else:
            yield key, value


@pytest.mark.parametrize(
    ("name", "attack", "by_hand"),
    [
        ("acil", STRONGEST, 0.03),
        ("acil", LOSS, -0.04),
        ("finetune", STRONGEST, -0.1),
        ("finetune", LOSS, -0.05),
        ("sdmlp", STRONGEST, -0.05),
    ],
)
def test_changes_over_stages_are_those_worked_out_by_hand(comparisons, name, attack, by_hand):
    """By hand: a rate at 1% FPR changes by half of the AUC."""
    area, rate = (
        comparisons[Asked(*change(name, attack), measure)] for measure in ("auc", "tpr_1pct")
    )
    assert area.estimate.value == pytest.approx(by_hand)
    assert rate.estimate.value == pytest.approx(by_hand / 2)
    assert area.shown == ("more" if by_hand > 0 else "less")


def test_accuracy_of_earlier_tasks_changes_by_what_is_forgotten(comparisons):
    for name, forgotten in (("finetune", 0.9), ("sdmlp", 0.4), ("ssd", 0.3), ("acil", 0.02)):
        found = comparisons[Asked(*change(name, ACCURACY), ACCURACY)]
        assert found.estimate.value == pytest.approx(-forgotten)


def test_a_learner_is_set_beside_the_one_that_it_adds_to(comparisons, fleets):
    """By hand: SSD forgets 0.1 less than SDMLP, and at the end 0.03 more AUC is left."""
    accurate, leaks = claims.beside(fleets, "ssd", "sdmlp")
    (kept,) = comparisons.of(accurate, ACCURACY)
    (leaked,) = comparisons.of(leaks, "auc")
    assert kept.estimate.value == pytest.approx(0.1)
    assert leaked.estimate.value == pytest.approx(0.03)
    row = tables.pairs(comparisons, fleets).splitlines()[2]
    assert row.startswith("| ssd beyond sdmlp | ")
    assert "| ↑ +0.030 (" in row
    assert claims.beside(fleets, "ewc", "finetune") == []


def test_a_learner_that_adds_to_two_is_set_beside_each(several):
    """By hand: SSD with EWC forgets 0.1 less than SSD, and 0.2 less than SDMLP with EWC."""
    known = {"change": -0.02, "loss": -0.06}
    fleets = several(
        sdmlp_ewc={**known, "forgotten": 0.4},
        ssd={**known, "forgotten": 0.3},
        ssd_ewc={**known, "change": 0.01, "forgotten": 0.2, "heads": {"full": (0.0, 0.05)}},
    )
    assert [*fleets] == ["sdmlp-ewc", "ssd", "ssd-ewc"]
    comparisons = Comparisons(fleets)
    for second, less in (("ssd", 0.1), ("sdmlp-ewc", 0.2)):
        (kept,) = comparisons.of(claims.beside(fleets, "ssd-ewc", second)[0], ACCURACY)
        assert kept.estimate.value == pytest.approx(less)
    assert (
        "is ssd-ewc beside ssd and ssd-ewc beside sdmlp-ewc; in what the strongest attack finds of "
        "earlier tasks at the end (AUC), more is shown: ssd-ewc beside ssd (+0.030) and ssd-ewc "
        "beside sdmlp-ewc (+0.030)."
    ) in sentences.remembering(comparisons, fleets)
    assert "- ssd-ewc beside ssd: no difference shown (+5.0 points)." in sentences.order_of(
        fleets, comparisons
    )
    assert "- Beside sdmlp-ewc, ssd-ewc retains" in sentences.retention(comparisons, fleets)
    row = next(row for row in tables.published(fleets).splitlines() if "| ssd-ewc |" in row)
    assert "not run" not in row
    assert "EWC beside SSD" not in sentences.not_run(fleets, {})


def test_a_backbone_of_two_streams_is_set_beside_one(several):
    fleets = several(acil={"forgotten": 0.3}, real={"forgotten": 0.1})
    assert [*fleets] == ["acil", "real"]
    accurate, _ = claims.beside(fleets, "real", "acil")
    (kept,) = Comparisons(fleets).of(accurate, ACCURACY)
    assert kept.estimate.value == pytest.approx(0.2)


def test_what_is_said_of_a_pair_follows_from_both_measures(comparisons, fleets):
    assert sentences.retention(comparisons, fleets) == (
        "- Beside sdmlp, ssd retains more of the accuracy of earlier tasks (+10.0 points); of what "
        "leaks of them at the end, AUC more (+0.030) and TPR at 1% FPR more (+1.5 points)."
    )


def test_the_margin_is_a_twentieth_of_what_is_left_at_the_end(comparisons, fleets):
    """By hand: of ACIL's 0.73 at the end, 0.23 are beyond guessing, and a twentieth is 0.0115."""
    (pair,) = claims.few_heads(fleets).pairs
    found = comparisons[Asked(*pair, "auc")]
    assert found.margin == pytest.approx(0.0115)
    assert found.estimate.value == pytest.approx(-0.001)
    assert found.small


@pytest.mark.parametrize(
    ("acil", "word"),
    [
        ({"change": 0.03, "loss": -0.04}, "no fall (and a rise under acil)."),
        ({"change": 0.0, "loss": -0.04}, "the strongest attack finds no fall."),
        ({"change": -0.02, "loss": -0.04}, "is shown to mislead under none of 1 of the learners"),
        ({"change": 0.03, "loss": 0.02}, "is shown to mislead under none of 1 of the learners"),
    ],
)
def test_a_loss_attack_misleads_where_its_fall_is_not_there(several, acil, word):
    fleets = several(acil=acil)
    assert word in sentences.deception(Comparisons(fleets), fleets)


def test_a_quantized_network_protects_where_both_measures_fall(comparisons, fleets):
    """By hand: 8 bits change nothing; nearest-w2 loses 5 points, and obc-w2 gains a tenth."""
    text = sentences.rounding(comparisons, fleets)
    assert text == (
        "Against attacks on phi, quantizing the network protects acil in 2 of 3 forms (as accurate "
        "to a point: obc-w2)."
    )
    found = comparisons[Asked(Head("acil", "nearest-w2"), Head("acil", FULL), "auc")]
    assert found.estimate.value == pytest.approx(-0.1)
    rows = tables.heads(comparisons, fleets).splitlines()[2:]
    assert [row.split(" | ")[1] for row in rows] == [FULL, "nearest-w8", "nearest-w2", "obc-w2"]
    assert "| ↓ -5.0 (-5.1 to -4.9) | ↓ -0.100 (" in rows[2]


def test_the_answer_says_what_is_shown_of_each_question(comparisons, fleets):
    text = sentences.answer(comparisons, fleets)
    assert "rises under acil (+0.030); falls under finetune (-0.100), sdmlp (-0.050) and" in text
    assert "Shown to forget less than what it adds to is ssd beside sdmlp; in what" in text
    assert "at the end (AUC), more is shown: ssd (+0.030)." in text
    assert "A loss attack misleads under acil: it reports that earlier" in text
    assert (
        "Do not ship the matrix R, which tells members right after a task (AUC, acil: 0.990 by "
        "`leverage_float64`, 0.990 by leverages alone in int8)."
    ) in text
    assert (
        "with 16 shadows, in AUC not shown to differ (-0.001, small) under acil (0.02 s each)."
        in text
    )
    assert "rank who is exposed under acil (0.90, from 0.89) by rank correlation" in text
    assert "what they let expect in none of 2 groups." in text


def test_what_a_head_alone_tells_is_no_reason_to_keep_r_back(fleets):
    known, acil = fleets["acil"].leak.state, fleets["acil"]
    solved = known[0]._replace(attack="normal_equations", auc=Estimate(1.0, 0.99, 1.0))
    more = acil._replace(leak=acil.leak._replace(state=[*known, solved]))
    assert ridge.exposure({"acil": more}) == ridge.exposure({"acil": acil})
    assert "who was learnt (AUC right after a task, acil: 1.000)" in ridge.equations({"acil": more})
    alone = acil._replace(leak=acil.leak._replace(state=[solved]))
    assert ridge.exposure({"acil": alone}) == ""
    assert ridge.equations({"acil": acil}) == ""


@pytest.fixture
def quantized(fleets):
    """Of acil at 4 bits less is found, and by rounded heads; at 2 bits neither is shown."""
    (full,) = fleets["acil"].leak.variants

    def difference(value, p):
        return Difference("", "", Estimate(value, value - 0.01, value + 0.01), p, p)

    def estimate(value):
        return Estimate(value, value - 0.01, value + 0.01)

    low = estimate(0.55)
    four = RoundedLeak(estimate(0.7), low, difference(0.15, 0.01))
    two = RoundedLeak(estimate(0.6), low, difference(0.05, 0.3))
    variants = [
        full,
        VariantLeak("nearest-w4", four.worlds, low, [], True, difference(-0.29, 0.01), four),
        VariantLeak("nearest-w2", two.worlds, low, [], True, difference(-0.39, 0.2), two),
        VariantLeak("brecq-w2", low, low, [], True, difference(-0.4, 0.01)),
    ]
    holders = [Holder("snapshot", low, low, None), Holder("snapshots", low, low, None)]
    shown, unclear = difference(-0.1, 0.01), difference(-0.1, 0.3)
    changed = [holders[0]._replace(beyond=shown), holders[1]._replace(beyond=unclear)]
    precisions = [PrecisionLeak("full", [], holders), PrecisionLeak("nearest-w4", [], changed)]
    leak = fleets["acil"].leak._replace(variants=variants, precisions=precisions)
    return {"acil": fleets["acil"]._replace(leak=leak)}


def test_rounded_heads_are_told_of_by_what_is_shown(quantized, fleets):
    assert ridge.rounded_alike(quantized).endswith(
        "(acil: 0.990 at full precision, 0.600 to 0.700 quantized, less in 1 of 2 forms; such "
        "heads find more than LiRA with shadows in 1 of 2)."
    )
    lines = tables.rounded(quantized).splitlines()
    assert lines[3].count("? ") == 0
    assert lines[4].count("? ") == 2
    assert lines[5].endswith("| - | - | - |")
    assert ridge.rounded_alike(fleets) == ""
    assert not tables.has_rounded(fleets)


def test_quantized_ends_of_tasks_are_told_of_by_what_is_shown(quantized, fleets):
    assert "(acil: all 1 and none of 1)" in ridge.shipping(quantized)
    *_, last, every = tables.shipped(quantized).splitlines()
    assert "? " not in last
    assert "? -0.100" in every
    assert ridge.shipping(fleets) == ""
    assert not tables.has_shipped(fleets)


def test_without_analytic_learners_nothing_is_said_of_heads(several):
    fleets = several(finetune={"change": 0.0})
    page = plain(render(DIGITS, fleets, {}))
    for heading in ("## Does quantizing", "## What the learner's", "## A few heads", "## Who is"):
        assert heading not in page
    assert "stays under finetune (+0.000)." in page
    assert "**Not run yet:** learners `relu`, `topk`, `sdmlp`, `sdmlp-ewc`, `ssd`, `acil`" in page


def test_verdicts_count_every_pair_of_a_claim(comparisons, fleets):
    rows = dict(
        row.strip("| ").rsplit(" | ", 1) for row in tables.claims(comparisons, fleets).splitlines()
    )
    by_claim = {key.rsplit(" | ", 1)[0]: verdict for key, verdict in rows.items()}
    assert by_claim["leakage of earlier tasks falls under fine-tuning and SDMLP"] == "held"
    assert by_claim["ssd leaks more of earlier tasks than sdmlp"] == "held"
    assert by_claim["quantized networks leak less than full-precision ones"] == "held in part"
    assert by_claim[claims.misled(fleets).text] == "mixed"


def test_tables_name_levels_of_every_fleet(comparisons, fleets):
    rows = tables.changes(comparisons, fleets).splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == [f"| {name}" for name in EVERY]
    assert "| 0.700 (" in rows[-1]
    assert "| ↑ +0.030 (" in rows[-1]
    few = tables.few(comparisons, fleets).splitlines()[2]
    assert re.match(r"\| acil \| 8 \| 16 \| 0\.7\d\d \(", few)
    assert few.endswith("| 0.020 | 3600.0 |")
    assert len(tables.attackers(fleets).splitlines()) == 2 + len(EVERY) + 1


def test_models_that_attack_one_another_count_half(several):
    """By hand: twice the variance makes the interval wider by the root of 2."""
    widths = []
    for targets in (8, 0):
        fleets = several(acil={"change": 0.03, "fleet": {"targets": targets}})
        found = Comparisons(fleets)[Asked(*change("acil", STRONGEST), "auc")].estimate
        widths.append(found.high - found.low)
    assert widths[1] == pytest.approx(2**0.5 * widths[0])


def test_figures_have_a_pair_of_maps_and_a_point_per_learner(fleets, several):
    panels = [panel for row in charts.maps(fleets).panels for panel in row]
    shown = [panel.title for panel in panels if panel is not None]
    assert len(panels) == 12  # three learners beside each other
    assert shown == [f"{name}: {what}" for name in EVERY for what in ("accuracy", "AUC")]
    (panels,) = charts.changes(fleets).panels
    assert [len(panel.series) for panel in panels] == [4, 4]
    assert panels[0].series[3].y == [pytest.approx(0.03)]
    assert "risk" in charts.all_of(fleets)
    assert [*charts.all_of(several(finetune={}))] == ["changes", "maps"]


def test_the_commands_make_every_fleet(fleets):
    text = commands(DIGITS, fleets, {})
    assert text.startswith(
        "python train.py --config recipes/continual/study.yaml \\\n"
        "      --continual.tasks 3 \\\n"
        "      --run_dir runs/continual/finetune\n"
    )
    assert "      --continual.learner ssd \\\n" in text
    assert "python audit.py --run_dir runs/continual/acil\n" in text
    assert text.endswith("runs/continual/ssd \\\n      runs/continual/acil")
    assert commands(DOCUMENTS["photographs"], fleets, {}).endswith("--data photographs")


def test_options_that_a_learner_does_not_read_are_in_no_command(several):
    """An older default is recorded of all learners, and the others would refuse it."""
    sparse = {"hidden": 500, "k": 10, "switch": 7.0}
    fleets = several(
        finetune={"continual": {"sdmlp": sparse}},
        relu={"continual": {"learner": "relu", "sdmlp": sparse}},
    )
    text = commands(DIGITS, fleets, {})
    assert text.count("--continual.sdmlp.hidden 500") == 1
    assert "switch" not in text


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("finetune", {}),
        ("sdmlp", {"continual": {"learner": "sdmlp", "sdmlp": {"hidden": 500, "switch": 200.0}}}),
        ("ewc", {"continual": {"ewc": 7.5}, "model": {"lr": 0.3}}),
        ("acil", {"trainer": {"max_epochs": 3}, "heads": {"nearest-w2": (0.0, 0.0)}}),
        (
            "acil",
            {
                "continual": {"learner": "acil", "analytic": ROUNDED},
                "heads": {"nearest-w2": (0.0, 0.0)},
                "quantize_snapshots": True,
            },
        ),
    ],
)
def test_a_printed_command_asks_for_the_options_of_its_fleet(several, name, known):
    fleets = several(**{name: known})
    command = commands(DIGITS, fleets, {}).split("\n    python audit.py")[0].replace("\\\n", " ")
    _, asked = parse(shlex.split(command)[2:])
    made = fleets[name].study.config
    for section in ("model", "continual", "trainer"):
        for option, value in flatten(made[section]):
            assert asked[f"{section}.{option}"] == value, option
    assert asked.quantize == made["quantize"]
    assert asked.quantize_snapshots == made.get("quantize_snapshots", False)


def test_the_command_keeps_results_and_writes_the_page(write, tmp_path, monkeypatch, capsys):
    shutil.copy(HERE / "page.md.jinja", tmp_path)
    document = DIGITS._replace(page=tmp_path / "continual.md", folder=tmp_path)
    monkeypatch.setattr("docs.continual.page.HERE", tmp_path)
    monkeypatch.setitem(DOCUMENTS, "digits", document)
    acil, other = (str(write(tmp_path, name, change=0.02)) for name in ("acil", "finetune"))
    for given, said in (([acil, acil], "Two of the folders learn by `acil`"), ([], "The page")):
        with pytest.raises(SystemExit) as stopped:
            main(given)
        assert stopped.value.code == 1
        assert capsys.readouterr().err.startswith(f"docs.continual: {said}")
    main([acil, other])
    made = {path.name for path in tmp_path.iterdir() if path.is_file()}
    pictures = {"changes.png", "maps.png", "risk.png"}
    assert made - {"page.md.jinja"} == {"acil.json", "finetune.json", "continual.md"} | pictures
    assert imread(tmp_path / "maps.png").std() > 0
    text = (tmp_path / "continual.md").read_text()
    assert text == render(document, read(tmp_path), {})
    main([])
    assert (tmp_path / "continual.md").read_text() == text


@pytest.mark.parametrize("data", DOCUMENTS)
def test_the_page_is_that_of_the_kept_results(data):
    document = DOCUMENTS[data]
    if not document.page.exists():
        pytest.skip("no fleet is kept yet")
    assert document.page.read_text() == render(
        document, read(document.folder), read_nulls(document.folder)
    )


def test_sides_that_no_attack_was_made_on_are_not_compared(fleets):
    assert not claims.own_columns({"finetune": fleets["finetune"]}).pairs
    assert all(pair[0].fleet == "acil" for pair in claims.few_heads(fleets).pairs)
    assert not can_attack(fleets, Side("finetune", "all", WORLDS))
