"""What an attacker tells of an attribute of members: a table and sentences."""

from attacks.federated.attributes import AttributeLeak, AttributeRow
from attacks.federated.view import Threat
from reporting.federated import attacker
from reporting.tables import Body, Cell, difference_cells, number
from reporting.text import LEVEL, show, show_change

HEADINGS: dict[Threat, str] = {
    "server": "What a server tells of an attribute",
    "client": "What a client tells of an attribute, and secure aggregation leaves",
    "subtracting": (
        "What a client tells of an attribute that takes its own upload out of the global model"
    ),
}


def attribute_table(leak: AttributeLeak | None) -> Body:
    """One row per way to guess; empty where no attribute was recorded."""
    if leak is None:
        return Body((), [], "")
    columns = ["guess", "knowledge", "right on members", "right on non-members"]
    columns += ["excess on members", "p", "beyond public guesses", "p"]
    rows = []
    for row in leak.rows:
        shares = [number(e.value, show(e, percent=True)) for e in (row.members, row.non_members)]
        known = Cell(row.guess), Cell(row.knowledge)
        excess = difference_cells(row.excess, percent=True)
        rows.append((*known, *shares, *excess, *difference_cells(row.beyond, percent=True)))
    return Body(tuple(columns), rows, _note(leak))


def _note(leak: AttributeLeak) -> str:
    """How to read the table."""
    count = f"{leak.federations} federation{'' if leak.federations == 1 else 's'}"
    values = ", ".join(f"{value:g}" for value in leak.values)
    return (
        f"{attacker(leak)} knows all of an example but feature {leak.column}, and guesses "
        f"which of {values} it is: the value with which the example scores highest as a member. "
        "Public guesses use no network: the most frequent value with the label (label), and a "
        "logistic regression on the label and all other features (correlations), learned from "
        "examples that nobody holds. A network tells features of non-members, too: only the excess "
        "on members is a leak. The last difference is from the public guess that is best on "
        "non-members: what the attacker gains by looking. "
        f"Means over {count}, with intervals over federations (Student's t) and examples; p is "
        "corrected for all attacks (Holm)."
    )


def sentences(leak: AttributeLeak | None) -> list[str]:
    """What one kind of attacker tells of the attribute, by a written rule.

    A leak is said to be shown if the corrected p of the strongest attack's excess is below 5% and
    the excess above 0; and an attack to beat, or to fall behind, the best public guess if the
    corrected p of that difference is below 5%.
    """
    if leak is None:
        return []
    best, public = leak.strongest, leak.public
    return [f"{_excess(leak, best)} {_beyond(best, public)}"]


def _excess(leak: AttributeLeak, best: AttributeRow) -> str:
    what = f"feature {leak.column}"
    shares = (
        f"right for {show(best.members, percent=True)} of members and "
        f"{show(best.non_members, percent=True)} of examples that nobody holds, by {best.guess}"
    )
    if best.excess.p_holm < LEVEL and best.excess.estimate.value > 0:
        return f"{attacker(leak)} tells {what} of members beyond non-members: {shares}."
    return (
        f"{attacker(leak)} is not shown to tell {what} of members beyond that of "
        f"non-members: {shares}."
    )


def _beyond(best: AttributeRow, public: AttributeRow) -> str:
    right = f"{show(public.members, percent=True)} of members without any network"
    beyond = best.beyond
    if beyond is None or beyond.p_holm >= LEVEL:
        return f"The public guess by {public.guess} is right for {right}, no clear difference."
    verb = "more" if beyond.estimate.value > 0 else "less"
    change = show_change(beyond.estimate, "tpr_1pct")
    return (
        f"The public guess by {public.guess} is right for {right}: the attack tells {verb} "
        f"({change} points)."
    )
