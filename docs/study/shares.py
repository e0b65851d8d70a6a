"""How much of a gain in privacy is mismatch, how much is lost accuracy, and how much is left.

The gain that an attacker sees in a variant is what the strongest attack finds at full precision
less what this attacker finds in the variant. It is the sum of three parts: what the strongest
attack finds in the variant beyond this attacker (mismatch); what it finds at full precision beyond
a network of the variant's accuracy that was stopped early (lost accuracy); and what it finds in
that network beyond the variant (left).
"""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from attacks.game import FULL
from attacks.metrics.differences import ratio_of_means
from attacks.metrics.intervals import Estimate
from docs.study.comparisons import FIRST_SEEN, SEEN_BY, Asked
from docs.study.edition import Edition
from docs.study.fleets import ternary_of
from docs.study.numbers import MEASURES, STRONGEST
from docs.study.tables import points, share, table
from docs.study.verdicts import NAMES, Compared
from reporting.text import show_difference

PARTS = {"mismatch": "mismatch", "lost": "lost accuracy", "left": "left"}


class GainPart(NamedTuple):
    """One part of a gain.

    Attributes:
        compared: its size.
        share: of the gain, with Fieller's interval; None where any share is possible.
    """

    compared: Compared
    share: Estimate | None


def split(
    edition: Edition, fleet: str, variant: str, measure: str, seen: str
) -> dict[str, GainPart]:
    """The parts of the gain that one of `SEEN_BY` sees; outside the curve, mismatch alone."""
    study = edition.fleets[fleet]
    full, own = (study.each(name, STRONGEST, measure) for name in (FULL, variant))
    gain = full - study.each(variant, SEEN_BY[seen], measure)
    key = Asked(fleet, "mismatch", variant, measure, seen)
    parts = {"mismatch": GainPart(edition[key], _share([gain - (full - own)], gain))}
    if curve := edition.curves.get(fleet):
        networks = [there.measured.values for there in curve.networks(variant, measure)]
        for name, values in (
            ("lost", [full - there for there in networks]),
            ("left", [there - own for there in networks]),
        ):
            if compared := edition.get(Asked(fleet, name, variant, measure)):
                parts[name] = GainPart(compared, _share(values, gain))
    return parts


def shares_table(edition: Edition, fleet: str) -> str:
    """Every gain that the strongest attack with full-precision shadows sees, and its parts."""
    rows = []
    for measure in MEASURES:
        for variant in ternary_of(edition.fleets[fleet]):
            gain = edition[Asked(fleet, "gain", variant, measure, FIRST_SEEN)]
            parts = split(edition, fleet, variant, measure, FIRST_SEEN)
            cells = [_show(parts[name], measure) if name in parts else "-" for name in PARTS]
            rows.append((NAMES[measure], variant, signed(gain, measure), *cells))
    return table(("measure", "variant", "gain", *PARTS.values()), rows)


def others_table(edition: Edition, fleet: str) -> str:
    """The gains that other attackers see, and their mismatch; the other parts are the same."""
    rows = []
    for measure in MEASURES:
        for variant in ternary_of(edition.fleets[fleet]):
            cells = []
            for seen in list(SEEN_BY)[1:]:
                gain = edition[Asked(fleet, "gain", variant, measure, seen)]
                mismatch = split(edition, fleet, variant, measure, seen)["mismatch"]
                cells += [signed(gain, measure), _show(mismatch, measure)]
            rows.append((NAMES[measure], variant, *cells))
    columns = [f"{what}, {seen}" for seen in list(SEEN_BY)[1:] for what in ("gain", "mismatch")]
    return table(("measure", "variant", *columns), rows)


def signed(compared: Compared, measure: str) -> str:
    """A part of a gain, marked where it is not shown."""
    text = (show_difference if measure == "auc" else points)(compared.estimate)
    return text if compared.shown else f"? {text}"


def _show(part: GainPart, measure: str) -> str:
    known = "share unknown" if part.share is None else share(part.share)
    return f"{signed(part.compared, measure)}; {known}"


def _share(
    parts: Sequence[Float[Tensor, " targets"]], gain: Float[Tensor, " targets"]
) -> Estimate | None:
    """The first of several parts over a gain, with the union of Fieller's intervals."""
    shares = [ratio_of_means(part, gain) for part in parts] if gain.mean() > 0 else []
    known = [found for found in shares if found is not None]
    if not known or len(known) < len(shares):
        return None
    low, high = min(found.low for found in known), max(found.high for found in known)
    return known[0]._replace(low=low, high=high)
