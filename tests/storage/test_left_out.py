"""Sentences on what an audit leaves out, word for word."""

import pytest
import torch

from attacks.choice import FINDINGS, WORDS, Choice, Lack
from storage.left_out import FINDINGS as NAMES
from storage.left_out import (
    WAYS_OUT,
    leave_out_attacks,
    leave_out_examples,
    leave_out_images,
    leave_out_models,
    why_left_out,
)
from storage.names import ModelName

SHADOW, TARGET = ModelName("shadow", 3), ModelName("target", 0)


def choose(usable=1000, of=1000, sides=(2, 2), **left_out):
    nobody = torch.zeros(of, dtype=torch.bool)
    return Choice([], torch.arange(of) < usable, sides, left_out, nobody, nobody)


def test_excluded_models():
    excluded = {SHADOW: "unfinished", TARGET: "training accuracy 0.1, its peers' median 1"}
    assert leave_out_models(excluded, trained_here=True) == [
        "shadow-003 is excluded with its partner: unfinished. Run train.py again to finish it.",
        "target-000 is excluded: training accuracy 0.1, its peers' median 1. `train.py "
        "--fleet.retrain_failed true` trains it from another start.",
    ]
    (line,) = leave_out_models({SHADOW: "3 of 9 signals are not finite"}, trained_here=False)
    assert line == (
        "shadow-003 is excluded: 3 of 9 signals are not finite. Compute its signals again, or take "
        "it out of the arrays."
    )
    assert leave_out_models({}, trained_here=True) == []


def test_images():
    assert leave_out_images("no folder.") == leave_out_images("no folder")
    assert leave_out_images("no folder") == "No image is shown or used by an attack: no folder."


def test_examples():
    assert leave_out_examples(choose()) == []
    assert leave_out_examples(choose(19994, 20000)) == [
        "6 of 20,000 examples were left out of all attacks and findings: they lack 2 shadows with "
        "and 2 without them. Train more shadows; in complementary halves, 4 suffice."
    ]
    (line,) = leave_out_examples(choose(875, sides=(0, 2)))
    assert line.startswith("125 of 1,000 examples were left out of all attacks and findings: they ")
    assert "they lack 2 shadows without them." in line


@pytest.mark.parametrize(
    ("every", "none", "words"),
    [
        (20, 1, "20 examples are in every shadow's training set and 1 in none"),
        (1, 0, "1 example is in every shadow's training set"),
        (0, 1200, "1,200 examples are in no shadow's training set"),
    ],
)
def test_examples_in_every_shadow_or_in_none(every, none, words):
    place = torch.arange(2000)
    apart = place < every, (place >= every) & (place < every + none)
    usable = (place >= every + none) & (place < 1995)
    choice = Choice([], usable, (2, 2), {"rmia_online": Lack((), (1, 1), 9)}, *apart)
    rest = 2000 - every - none
    assert leave_out_examples(choice) == [
        f"{words}: no attack can compare shadows with and without them. All attacks and findings, "
        f"also those without shadows, are on the other {rest:,} of 2,000 examples; exposure.csv "
        "says which these are. Train some shadows with each example and some without it.",
        f"5 of {rest:,} examples were left out of all attacks and findings: they lack 2 shadows "
        "with and 2 without them. Train more shadows; in complementary halves, 4 suffice.",
    ]
    assert f"which 9 of {rest:,} examples lack" in leave_out_attacks(choice, True, 2)[0]
    expected = ["in every shadow"] * every + ["in no shadow"] * none
    assert why_left_out(choice) == expected + [""] * (rest - 5) + ["too few shadows"] * 5


def test_attacks_that_need_unknown_signals():
    pixels, margins = ("logits", "logits on a population", "the images"), ("logits",)
    population = Lack(("signals on a population",), (0, 0), 0)
    choice = choose(
        gap=Lack(margins, (0, 0), 0),
        quantile_regression=Lack(pixels, (0, 0), 0),
        rmia_online=population,
        rmia_offline=population,
    )
    assert leave_out_attacks(choice, trained_here=False, variants=2) == [
        "gap was left out: it needs logits. Pass logits instead of phi.",
        "quantile_regression was left out: it needs logits and logits on a population and the "
        "images. Only models that train.py trained have them.",
        "rmia_online and rmia_offline were left out: they need signals on a population. Pass "
        "population arrays of shadows and targets.",
    ]
    choice = choose(quantile_regression=Lack(("the images",), (0, 0), 0))
    assert leave_out_attacks(choice, trained_here=True, variants=2) == [
        "quantile_regression was left out: it needs the images. Put the data back in its place, "
        "and audit again."
    ]


def test_attacks_and_findings_that_need_more_shadows():
    lack = Lack((), (2, 2), 375)
    choice = choose(lira_online=lack, lira_online_fixed=lack, joint_lira=lack)
    reason = (
        "were left out: they need 2 shadows with and 2 without each example, which 375 of 1,000 "
        "examples lack, too many to leave out. Train more shadows; in complementary halves, 4 "
        "suffice."
    )
    (line,) = leave_out_attacks(choice, trained_here=False, variants=2)
    assert line == f"lira_online, lira_online_fixed and joint LiRA on several variants {reason}"
    (line,) = leave_out_attacks(choice, trained_here=False, variants=1)
    assert line == f"lira_online and lira_online_fixed {reason}"
    alone = choose(z_scores=Lack((), (0, 2), 375))
    (line,) = leave_out_attacks(alone, trained_here=False, variants=1)
    assert line.startswith("The table of z-scores was left out: it needs 2 shadows without each ")


def test_every_signal_and_finding_has_its_words():
    assert WAYS_OUT.keys() == {*WORDS.values(), "a population of 20"}
    assert NAMES.keys() == FINDINGS.keys()
