"""What is said of an attribute: by the strongest attack, and never without the correlations."""

import pytest

from attacks.federated.attributes import AttributeLeak, AttributeRow
from attacks.metrics.differences import Difference
from attacks.metrics.intervals import Estimate
from reporting.attributes import attribute_table, sentences


def around(value):
    return Estimate(value, value - 0.02, value + 0.02)


def difference(value, p):
    return Difference("one", "other", around(value), p, p)


@pytest.fixture
def leak():
    """A leak: the excess of the strongest attack, and its difference from correlations."""

    def make(excess=0.1, p=0.001, beyond=0.05, p_beyond=0.01):
        weak = difference(0.0, 1.0)
        rows = [
            AttributeRow("mean_phi", "none", around(0.5), around(0.5), weak, weak),
            AttributeRow(
                *("z_phi", "shadows", around(0.5 + excess), around(0.5)),
                *(difference(excess, p), difference(beyond, p_beyond)),
            ),
            AttributeRow("label", "public", around(0.4), around(0.4), weak, weak),
            AttributeRow("correlations", "public", around(0.55), around(0.55), weak, None),
        ]
        return AttributeLeak("server", 3, [0.0, 1.0], rows, 8, [])

    return make


def test_a_leak_beyond_correlations(leak):
    (sentence,) = sentences(leak())
    assert sentence == (
        "A server that sees each upload tells feature 3 of members beyond non-members: right for "
        "60.0% (58.0-62.0) of members and 50.0% (48.0-52.0) of examples that nobody holds, by "
        "z_phi. The public guess by correlations is right for 55.0% (53.0-57.0) of members "
        "without any network: the attack tells more (+5.0 (+3.0 to +7.0) points)."
    )


def test_a_leak_that_tells_less_than_correlations_says_so(leak):
    (sentence,) = sentences(leak(beyond=-0.05))
    assert "tells feature 3 of members beyond non-members" in sentence
    assert "the attack tells less (-5.0 (-7.0 to -3.0) points)" in sentence


@pytest.mark.parametrize("options", [{"p": 0.06}, {"excess": 0.0, "p": 1.0}])
def test_without_significance_no_leak_is_shown(leak, options):
    (sentence,) = sentences(leak(**options, p_beyond=0.2))
    assert "is not shown to tell feature 3 of members beyond that of non-members" in sentence
    assert sentence.endswith("of members without any network, no clear difference.")


def test_without_an_attribute_nothing_is_said_or_shown():
    assert sentences(None) == []
    assert attribute_table(None).rows == []


def test_the_table_has_every_guess_with_its_shares(leak):
    body = attribute_table(leak())
    assert [row[0].text for row in body.rows] == ["mean_phi", "z_phi", "label", "correlations"]
    assert all(len(row) == len(body.columns) for row in body.rows)
    assert [cell.text for cell in body.rows[1][2:6]] == [
        "60.0% (58.0-62.0)", "50.0% (48.0-52.0)", "+10.0 (+8.0 to +12.0)", "0.001",
    ]  # fmt: skip
    assert "which of 0, 1 it is" in body.note
