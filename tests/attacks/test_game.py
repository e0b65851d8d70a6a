"""The membership game: selecting models, reading their signals, and fitting shadows once."""

import pytest
import torch

from attacks.cases import Case
from attacks.game import Game, ModelSignals, Shadows, keep_examples
from attacks.lira import fit_sides


class OnDisk:
    """A signal on disk: a list selects models, a slice of examples is read, and no more."""

    def __init__(self, tensor, read):
        self.tensor, self.shape, self.dtype, self.read = tensor, tensor.shape, tensor.dtype, read

    def __getitem__(self, index):
        if isinstance(index, list):
            return OnDisk(self.tensor[index], self.read)
        dots, examples = index
        assert dots is ...
        assert isinstance(examples, slice)
        self.read.append(examples)
        return self.tensor[..., examples]


SIGNALS = (
    "phi", "hinge", "population", "population_hinge", "embeddings", "population_embeddings"
)  # fmt: skip


@pytest.mark.parametrize("disk", [False, True])
@pytest.mark.parametrize("models", [[4, 0, 2], (1,), range(1, 4), [2, 2]], ids=str)
@pytest.mark.parametrize("unknown", [(), ("hinge", "population_hinge"), SIGNALS[1:]], ids=len)
def test_selected_models_are_read_into_memory(rng, disk, models, unknown):
    plain = {
        name: None if name in unknown else torch.randn(5, 2, 9 + i, generator=rng)
        for i, name in enumerate(SIGNALS)
    }
    features, read = (torch.randn(9, 3, generator=rng), torch.randn(11, 3, generator=rng)), []
    wrapped = {n: x if x is None or not disk else OnDisk(x, read) for n, x in plain.items()}
    labels = torch.arange(9), torch.arange(11)
    selected = ModelSignals(**wrapped, features=features, labels=labels).of(models)
    assert read == []  # selecting models reads nothing
    target = selected.read()
    for name, whole in plain.items():
        if whole is None:
            assert getattr(selected, name) is getattr(target, name) is None
        else:
            assert isinstance(getattr(target, name), torch.Tensor)
            assert torch.equal(getattr(target, name), whole[list(models)])
    assert target.features is selected.features is features
    assert target.labels is selected.labels is labels


def test_unknown_signals_stay_unknown(rng):
    phi = torch.randn(2, 1, 4, generator=rng)
    assert ModelSignals(phi).of([1]).read()[1:] == (None,) * 7


def test_shadows_are_fitted_once_and_as_lira_fits_them(rng):
    phi, read = torch.randn(7, 2, 30, generator=rng), []
    included = torch.rand(7, 30, generator=rng) < 0.5
    included[:2], included[2:4] = True, False
    shadows = Shadows(ModelSignals(OnDisk(phi, read)), included)
    assert read == []
    for _ in range(3):
        for fit, side in ((shadows.inside, included), (shadows.outside, ~included)):
            (expected,) = fit_sides(phi, (side,))
            for tensor, reference in zip(fit, expected, strict=True):
                torch.testing.assert_close(tensor, reference, rtol=0, atol=0)
    assert len(read) == 1
    assert shadows.population is None


def test_shadows_without_an_example_suffice_for_offline_attacks(rng):
    included = torch.zeros(4, 6, dtype=torch.bool)
    shadows = Shadows(ModelSignals(torch.randn(4, 1, 6, generator=rng)), included)
    assert shadows.outside.fewest == 4
    with pytest.raises(ValueError, match="2 shadow models or more on a side, got 0"):
        _ = shadows.inside


def test_knowledge_names_the_variant_of_the_shadows(rng):
    """At full precision all kinds of shadows are the same; without it there is only one kind."""
    signals = ModelSignals(torch.randn(3, 1, 4, generator=rng))
    members = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 1], [1, 1, 0, 0]]).bool()
    game = Game({"full": signals, "w2": signals}, members, [Case(2, [0, 1]), Case(0, [1])])
    assert game.variants == ["full", "w2"]
    assert game.shadow_variants("full") == {"matched": "full"}
    assert game.shadow_variants("w2") == {"matched": "w2", "unquantized": "full"}
    assert game._replace(signals={"w2": signals}).shadow_variants("w2") == {"matched": "w2"}
    assert torch.equal(game.audited, members[[2, 0]])


@pytest.mark.parametrize("unknown", [(), ("hinge", "population_hinge"), SIGNALS[1:]], ids=len)
def test_kept_examples_are_read_lazily_and_the_population_stays_whole(rng, unknown):
    plain = {
        name: None if name in unknown else torch.randn(5, 2, size, generator=rng)
        for name in SIGNALS
        for size in [12 if name.startswith("population") else 9]
    }
    features, read = (torch.randn(9, 3, generator=rng), torch.randn(12, 3, generator=rng)), []
    wrapped = {name: x if x is None else OnDisk(x, read) for name, x in plain.items()}
    signals = ModelSignals(**wrapped, features=features)
    bare = ModelSignals(wrapped["phi"])
    members, mask = (torch.rand(5, 9, generator=rng) < 0.5 for _ in range(2))
    game = Game({"full": signals, "w2": signals, "w4": bare}, members, [Case(4, [0, 1])])
    game = game._replace(calibrated={"w2": mask})
    usable = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1, 0]).bool()
    part = keep_examples(game, usable)
    assert read == []
    known = part.signals["w2"].of([3, 1]).read()
    for name, whole in plain.items():
        expected = whole if whole is None or name.startswith("population") else whole[..., usable]
        if expected is None:
            assert getattr(known, name) is None
        else:
            assert torch.equal(getattr(known, name), expected[[3, 1]])
    assert torch.equal(known.features[0], features[0][usable])
    assert known.features[1] is features[1]
    assert part.signals["full"].features is part.signals["w2"].features  # copied once
    assert part.signals["w4"].features is None
    assert torch.equal(part.members, members[:, usable])
    assert torch.equal(part.audited, members[[4]][:, usable])
    assert torch.equal(part.calibrated["w2"], mask[:, usable])
    assert (part.cases, part.kept.tolist()) == (game.cases, usable.tolist())


def test_kept_examples_of_kept_examples_are_marked_in_the_pool(rng):
    phi = torch.randn(3, 1, 6, generator=rng)
    game = Game({"full": ModelSignals(phi)}, phi[:, 0] > 0, [Case(2, [0, 1])])
    assert game.kept is None
    first = keep_examples(game, torch.tensor([1, 0, 1, 1, 0, 1]).bool())
    second = keep_examples(first, torch.tensor([0, 1, 0, 1]).bool())
    assert second.kept.tolist() == [False, False, True, False, False, True]
    assert first.kept.tolist() == [True, False, True, True, False, True]
    assert torch.equal(second.signals["full"].phi[..., :], phi[..., [2, 5]])
    assert keep_examples(first, torch.ones(4, dtype=torch.bool)) is first
