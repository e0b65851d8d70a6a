"""The figure of the frontier: early stopping with its band, and variants as points."""

from attacks.game import FULL
from attacks.metrics.intervals import Estimate
from attacks.metrics.measures import Metric
from docs.study.edition import Edition
from docs.study.figures import COLOURS
from docs.study.fleets import BASE, controls_of, made_of
from docs.study.numbers import MEASURES, STRONGEST, Study
from docs.study.verdicts import NAMES
from reporting.charts import GUIDE, Axis, Chart, Panel, Series

CONTROL, DECAY = "tab:red", "tab:purple"
MARKERS = {"w4": "o", "w2": "s", "w1.58": "D"}  # by bits


def all_of(edition: Edition) -> dict[str, Chart]:
    """The figures of the second edition, by name."""
    charts = {"frontier": frontier(edition, BASE)}
    if "large" in edition.curves:
        charts["large"] = frontier(edition, "large")
    return charts


def frontier(edition: Edition, fleet: str) -> Chart:
    """Accuracy against leakage, one panel per measure."""
    study, curve = edition.fleets[fleet], edition.curve(fleet)
    panels = []
    for measure in MEASURES:
        leaks = [_leak(study, variant, measure) for variant in curve.variants]
        line = Series(
            "early stopping, every snapshot",
            [_accuracy(study, variant).value for variant in curve.variants],
            [leak.value for leak in leaks],
            y_interval=([leak.low for leak in leaks], [leak.high for leak in leaks]),
            colour=GUIDE,
            dashes=(),
            band=True,
        )
        dots = line._replace(
            y_interval=None, band=False, marker="o", size=4.0, names=curve.variants
        )
        points = [_point(study, variant, measure) for variant in (FULL, *made_of(study))]
        if fleet == BASE and "decay" in edition.fleets:
            decay = _point(edition.fleets["decay"], FULL, measure)
            points.append(decay._replace(label="weight decay", colour=DECAY, marker="*", size=11.0))
        axes = Axis("test accuracy"), Axis(f"{NAMES[measure]}, the strongest attack")
        panels.append(Panel([line, dots, *points], *axes))
    return Chart([panels], (14, 4.6), legend=_legend(panels[0]), share_x="all")


def _legend(panel: Panel) -> list[Series]:
    """What each line and point is, without the points themselves."""
    styles = {series.label: series for series in panel.series}
    return [s._replace(x=(), y=(), x_interval=None, y_interval=None) for s in styles.values()]


def _point(study: Study, variant: str, measure: Metric) -> Series:
    """One variant: methods by colour, controls hollow."""
    accurate, leak = _accuracy(study, variant), _leak(study, variant, measure)
    method, _, bits = variant.partition("-")
    control, asymmetric = variant in controls_of(study), "-asym" in variant
    name = "controls" if control else f"{method} {bits}" if bits else FULL
    return Series(
        name,
        [accurate.value],
        [leak.value],
        x_interval=([accurate.low], [accurate.high]),
        y_interval=([leak.low], [leak.high]),
        colour=CONTROL if control else COLOURS.get(method, "black"),
        marker="X" if control else "P" if asymmetric else MARKERS.get(bits, "*"),
        filled=not control,
        names=[variant],
        size=8.0,
    )


def _accuracy(study: Study, variant: str) -> Estimate:
    return study.results.variants[variant].accuracy


def _leak(study: Study, variant: str, measure: Metric) -> Estimate:
    estimate: Estimate = getattr(study.best(variant, STRONGEST, measure).summary, measure)
    return estimate
