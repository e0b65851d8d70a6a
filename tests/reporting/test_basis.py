"""What the numbers rest on, in words written by hand."""

import pytest

from attacks.rmia import RmiaOptions
from reporting.basis import describe_basis, describe_measures, describe_rmia


@pytest.mark.parametrize(
    ("options", "tuned", "words"),
    [
        (RmiaOptions(), {}, "population: as given, 100 examples; a = 0.3"),
        (
            RmiaOptions("pool", 0.5),
            {},
            "population: the other examples of the pool, 159 examples; a = 0.5",
        ),
        (
            RmiaOptions(tune=True),
            {"full": [0.7, 0.7], "nearest-w2": [0.2, 0.2]},
            "population: as given, 100 examples; a tuned on shadows that pose as targets: "
            "0.2 to 0.7",
        ),
        (
            RmiaOptions(tune=True),
            {"full": [0.7, 0.7]},
            "population: as given, 100 examples; a tuned on shadows that pose as targets: 0.7",
        ),
    ],
)
def test_choices_are_named(evidence, rows, options, tuned, words):
    game = evidence.game._replace(rmia=options, tuned=tuned)
    assert describe_rmia(evidence._replace(game=game), rows) == {"RMIA": words}


def test_only_what_was_used_is_named(evidence, rows):
    online = [row for row in rows if row.attack == "rmia_online"]
    assert describe_rmia(evidence, online) == {"RMIA": "population: as given, 100 examples"}
    assert describe_rmia(evidence, [row for row in rows if "rmia" not in row.attack]) == {}


@pytest.fixture
def summary(rows):
    """A summary of some targets with 1200 non-members each."""

    def make(targets):
        return rows[0].summary._replace(
            targets=targets,
            non_members=1200,
            false_positives_1pct=12 * targets,
            false_positives_01pct=targets + 1,
        )

    return make


def test_several_targets_set_each_others_thresholds(summary):
    assert describe_measures(summary(2)) == {
        "non-members": "1200 per target; over all targets a TPR at 1% FPR rests on 24 false "
        "positives and one at 0.1% on 3",
        "thresholds": "of a TPR: set by the target's own non-members where they leave 2 false "
        "positives or more, otherwise chosen on the other half of the targets, whose scores are "
        "pooled, and corrected along the ROC for the false positives that it makes, so that the "
        "FPR is exact on average; of balanced accuracy: chosen on the other half of the targets",
        "intervals": "95%, over targets (Student's t) and examples, for these shadows",
    }


def test_a_single_target_has_its_own_non_members_alone(summary):
    assert describe_measures(summary(1)) == {
        "non-members": "1200; a TPR at 1% FPR rests on 12 false positives and one at 0.1% on 2",
        "thresholds": "of a TPR: set by the same target's non-members, so that the FPR is exact on "
        "average; of balanced accuracy: chosen on the other half of the examples",
        "intervals": "95%, over the examples of the single target, for these shadows; that of its "
        "strongest attack holds whichever attack was chosen",
    }


def test_the_basis_is_what_is_known_of_the_models_and_what_was_measured(evidence, rows):
    basis = describe_basis(evidence, rows)
    assert list(basis) == [*evidence.facts, "RMIA", "non-members", "thresholds", "intervals"]
    assert basis["data"] == "digits"
    assert basis["RMIA"] == "population: as given, 100 examples; a = 0.3"
    # two targets of 80 non-members: 1.6 of 160 at 1%, 0.16 at 0.1%
    assert basis["non-members"] == (
        "80 per target; over all targets a TPR at 1% FPR rests on 1 false positive and one at "
        "0.1% on 0"
    )


def test_results_rest_on_it(results, evidence, rows):
    assert results.basis == describe_basis(evidence, rows)
