"""RMIA's choices in words."""

import pytest

from attacks.rmia import RmiaOptions
from reporting.choices import describe_rmia
from reporting.results import make_results


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


def test_results_rest_on_them(evidence, strongest, findings):
    basis = make_results(evidence, strongest, findings, "").basis
    assert basis["RMIA"] == "population: as given, 100 examples; a = 0.3"
