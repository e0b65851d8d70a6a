"""The page's sentences on results: each is computed from the comparisons by a written rule."""

from collections.abc import Mapping
from typing import Any

from attacks.federated.leaks import FederatedLeak
from attacks.federated.view import Threat
from docs.federated.claims import (
    Claim,
    Comparisons,
    alike,
    between_threats,
    beyond_peers,
    of_toy,
    protects,
    understated,
)
from docs.federated.fleets import THREATS, Fleets
from docs.federated.numbers import BORROWERS, MEASURES, Asked
from docs.study.null import Null
from docs.study.numbers import GUESSES
from docs.study.tables import cell
from docs.study.verdicts import NAMES, judge, tally
from quantization.updates import UPDATES
from reporting.text import listed, show

WHO: dict[Threat, str] = {
    "server": "a server that sees each upload",
    "client": "a client, or a server under secure aggregation",
}
TOYS = {  # verdicts on what the toy found
    "held": "confirmed",
    "held in part": "confirmed in part",
    "not shown": "not shown",
    "mixed": "contradicted in part",
    "refuted": "refuted",
}


def answer(comparisons: Comparisons, fleets: Fleets) -> str:
    """The page's answer: whether quantized updates protect, and from whom."""
    sentences = [protection(comparisons, fleets, threat) for threat in THREATS]
    sentences.append(toy(comparisons, fleets))
    told = (
        (
            "A server's attacks that compare peers, and need no shadows, beside its attacks with "
            "matched shadows",
            beyond_peers(fleets),
        ),
        ("What a server finds beside what a client finds", between_threats(fleets)),
    )
    sentences += [_told(start, claim, comparisons) for start, claim in told]
    return " ".join(filter(None, sentences))


def protection(comparisons: Comparisons, fleets: Fleets, threat: Threat) -> str:
    """Whether quantized updates protect against one kind of attacker, by its strongest attack.

    They protect where all of them are shown to leak less by both measures.
    """
    claim = protects(fleets, threat)
    statuses = {*comparisons.statuses(claim).values()}
    if statuses == {"held"}:
        word = "quantized updates protect"
    elif statuses == {"not shown"}:
        word = "quantized updates are not shown to protect"
    elif statuses <= {"held", "held in part", "not shown"}:
        word = "quantized updates protect in part"
    elif statuses <= {"refuted", "not shown"}:
        word = "quantized updates do not protect, and are shown to leak more"
    else:
        word = "quantized updates leak less by some comparisons and more by others"
    counts = "; ".join(tally(m, comparisons.of(claim, m)) for m in MEASURES)
    best = fleets.full.leaks[threat].strongest("none", "peers", "matched")
    found = f", AUC {show(best.auc)} at full precision" if best else ""
    return (
        f"Against {WHO[threat]}, {word} (by its strongest attack{found}; {_count(claim)} beside "
        f"that: {counts})."
    )


def toy(comparisons: Comparisons, fleets: Fleets) -> str:
    """Whether both findings of the toy are confirmed, by AUC and the server's attacks."""
    names = of_toy(fleets)
    if not names:
        return ""
    like = alike(fleets, "server")
    found = TOYS[judge(comparisons.of(like, "auc"), like.expected).status]
    text = (
        "A toy (one seed, digits) found that 4-bit and ternary updates protect almost nothing: by "
        f"AUC of a server's strongest attack this is {found} ({_count(like)})"
    )
    verdicts = []
    for by in ("`lda`", "the strongest with each"):
        claim = understated(fleets, "server", by, names)
        if claim.pairs:
            status = judge(comparisons.of(claim, "auc"), claim.expected).status
            attack = f"an attack of its kind ({by})" if by == "`lda`" else "the strongest attack"
            verdicts.append(f"{TOYS[status]} by {attack}")
    if not verdicts:
        return f"{text}. That full-precision shadows hide this has not been asked."
    return f"{text}; that full-precision shadows would hide this is {' and '.join(verdicts)}."


def toy_numbers(fleets: Fleets) -> str:
    """AUC of the toy's own attack on its updates, with each kind of shadows, one line each."""
    lines = []
    for update in of_toy(fleets):
        leak = fleets.quantized[update].leaks["server"]
        found = [
            f"{show(row.auc)} with {name}"
            for kind, name in (("matched", "matched shadows"), ("other", "full-precision ones"))
            for row in leak.rows
            if row.attack == "lda" and row.knowledge == kind
        ]
        if found:
            lines.append(f"- `{update}`: AUC of `lda` is {listed(found)}.")
    return "\n".join(lines)


def understatement(comparisons: Comparisons, fleets: Fleets, threat: Threat) -> str:
    """Whether full-precision shadows understate, by each pair of attacks."""
    claims = [understated(fleets, threat, by) for by in BORROWERS]
    parts = [f"{comparisons.overall(claim)} by {claim.by}" for claim in claims if claim.pairs]
    return (
        f"For {WHO[threat]}: that full-precision shadows understate what quantized updates leak "
        f"is {listed(parts)}."
    )


def between(comparisons: Comparisons, fleets: Fleets) -> str:
    """How much more a server finds than a client, one line per update."""
    lines = []
    for pair in between_threats(fleets).pairs:
        found = (f"{NAMES[m]} {cell(comparisons[Asked(*pair, m)], m)}" for m in MEASURES)
        lines.append(f"- `{pair[0].update}`: {', '.join(found)}.")
    return "\n".join(lines)


def nothing_to_find(null: Mapping[Threat, Null]) -> str:
    """How many attacks' intervals hold guessing where nothing can be found, one line each."""
    lines = []
    for threat, (holding, attacks) in null.items():
        named = [f"{NAMES[m]} of {holding[m]} hold {GUESSES[m]:g}" for m in MEASURES]
        lines.append(f"- {WHO[threat].capitalize()}, {attacks} attacks: {listed(named)}.")
    return "\n".join(lines)


def not_run(fleets: Fleets, null: Mapping[Threat, Null]) -> str:
    """What the page still lacks, one line each."""
    lines = ["a null, which holders drawn anew give (`--null`)"] if not null else []
    if missing := [f"`{update}`" for update in UPDATES if update not in fleets.all]:
        lines.append(f"updates {listed(missing)}")
    if all("feedback" not in update for update in fleets.quantized):
        lines.append("error feedback, which returns what rounding took to later rounds")
    lacking = [f"`{update}`" for update in fleets.quantized if update not in fleets.borrowing]
    if lacking:
        lines.append(f"full-precision shadows against {listed(lacking)}")
    return "\n".join(f"- **Not run yet:** {line}." for line in lines)


def size(leak: FederatedLeak) -> str:
    """How many federations, clients and non-members the numbers rest on."""
    return (
        f"{leak.federations} federations of {leak.clients} clients are attacked, each by "
        f"{leak.shadows} shadow federations, after rounds {', '.join(map(str, leak.rounds))}"
    )


def has_peers(fleets: Fleets) -> bool:
    """Whether there were enough clients to compare them."""
    return bool(beyond_peers(fleets).pairs)


def split(options: Mapping[str, Any]) -> str:
    """Which examples clients hold."""
    alpha = options["federated"]["dirichlet"]
    return (
        "that hold random parts (IID)"
        if alpha is None
        else f"that hold classes by Dirichlet({alpha:g})"
    )


def participation(options: Mapping[str, Any]) -> str:
    """Which clients take part in a round."""
    share = options["federated"]["participation"]
    return "all take part" if share == 1 else f"{share:.0%} of them take part in a round"


def _told(start: str, claim: Claim, comparisons: Comparisons) -> str:
    """How many comparisons of a claim show less, more or neither."""
    if not claim.pairs:
        return ""
    counts = "; ".join(tally(m, comparisons.of(claim, m)) for m in MEASURES)
    return f"{start} ({_count(claim)}): {counts}."


def _count(claim: Claim) -> str:
    return f"{len(claim.pairs)} {'update' if len(claim.pairs) == 1 else 'updates'}"
