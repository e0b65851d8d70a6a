import inspect
import weakref
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from lightning_modules.architectures import PreActivationBlock, resnet8, wide_resnet28_2
from quantization import lockstep as lockstep_module
from quantization.lockstep import lockstep


@pytest.fixture(params=["suspended", "restarted", "either"], autouse=True)
def kept(request, monkeypatch):
    """Whether runs are suspended at a stop, restarted for the next, or either by their size."""
    limits = {"suspended": torch.inf, "restarted": 0.0, "either": 1000.0}
    monkeypatch.setattr(lockstep_module, "MAX_SUSPENDED", limits[request.param])
    return request.param


class Odd(nn.Module):
    """Skips, functional and in-place operations, a layer called twice and a block in a loop."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.again = nn.Conv2d(4, 4, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1))
        self.fc = nn.Linear(8, 5)

    def forward(self, images):
        kept = self.first(images)
        x = functional.relu(self.norm(kept), inplace=True)
        x = self.again(x) + kept
        for _ in range(3):
            x = x + self.block(x).tanh_()
        x = torch.cat([self.again(x), x], 1)
        x *= torch.sigmoid(x)
        return self.fc(functional.adaptive_avg_pool2d(x, 1).flatten(1))


ORDER = ["first", "again", "block", "block", "block", "again", "fc"]


@pytest.fixture
def network(rng):
    network = Odd().eval()
    for parameter in network.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=rng)
    return network.requires_grad_(False)


@pytest.fixture
def chunks(rng):
    return [torch.randn(size, 3, 6, 6, generator=rng) for size in (3, 1, 4)]


def stops_of(network, names=("first", "again", "block", "fc")):
    return {name: network.get_submodule(name) for name in names}


def identity(stops, visited=None):
    def visit(name, inputs):
        if visited is not None:
            visited.append((name, [x.clone() for x in inputs]))
        return stops[name]

    return visit


@pytest.fixture
def ending(monkeypatch):
    """Collect the network's output for each chunk."""

    def collect(network):
        ends, call = [], type(network).forward

        def forward(self, *args):
            ends.append(call(self, *args))
            return ends[-1]

        monkeypatch.setattr(type(network), "forward", forward)
        return ends

    return collect


def test_outputs_are_those_of_the_network(network, chunks, ending):
    expected = [network(chunk) for chunk in chunks]
    ends, stops, visited = ending(network), stops_of(network), []
    lockstep(network, stops, chunks, identity(stops, visited))
    assert [name for name, _ in visited] == ORDER
    assert len(ends) == 3
    assert all(map(torch.equal, ends, expected))


def test_inputs_of_stops_are_those_that_hooks_record(network, chunks):
    seen = []
    for name, module in stops_of(network).items():
        module.register_forward_pre_hook(
            lambda module, args, name=name: seen.append((name, args[0].clone()))
        )
    by_chunk = []
    for chunk in chunks:
        seen.clear()
        network(chunk)
        by_chunk.append(list(seen))
    for module in stops_of(network).values():
        module._forward_pre_hooks.clear()
    stops, visited = stops_of(network), []
    lockstep(network, stops, chunks, identity(stops, visited))
    for at, (name, inputs) in enumerate(visited):
        assert all(calls[at][0] == name for calls in by_chunk)
        assert all(torch.equal(x, calls[at][1]) for x, calls in zip(inputs, by_chunk, strict=True))


@pytest.mark.parametrize("build", [resnet8, wide_resnet28_2])
def test_our_networks_stop_at_every_layer(build, rng, monkeypatch):
    # jaxtyping's checks, which only tests switch on, cannot be suspended within a method
    forward = inspect.unwrap(PreActivationBlock.forward)
    monkeypatch.setattr(PreActivationBlock, "forward", forward)
    network, ends = build(10, 3).eval(), []
    chunks = [torch.randn(2, 3, 8, 8, generator=rng) for _ in range(2)]
    kinds = nn.Conv2d | nn.Linear
    stops = {name: module for name, module in network.named_modules() if isinstance(module, kinds)}
    flat, visited = nn.Sequential(network), []
    flat.register_forward_hook(lambda module, args, output: ends.append(output))
    with torch.no_grad():
        lockstep(flat, stops, chunks, identity(stops, visited))
        assert all(torch.equal(end, network(x)) for end, x in zip(ends, chunks, strict=True))
    assert {name for name, _ in visited} == stops.keys()


def test_the_answers_of_a_visit_replace_the_stop(chunks):
    network = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Identity())
    given = []

    def visit(name, inputs):
        if name == "2":
            given.extend(inputs)
        return lambda x: 2 * x + 1

    lockstep(network, {"0": network[0], "2": network[2]}, chunks, visit)
    assert all(
        torch.equal(x, 2 * chunk.flatten(1) + 1) for x, chunk in zip(given, chunks, strict=True)
    )


def test_a_stops_own_hooks_run_once(network, chunks, ending):
    network.first.register_forward_hook(lambda module, args, output: 3 * output)
    network.again.register_forward_pre_hook(lambda module, args: (args[0] - 1,))
    expected = [network(chunk) for chunk in chunks]
    ends, stops = ending(network), stops_of(network)
    lockstep(network, stops, chunks, identity(stops))
    assert all(map(torch.equal, ends, expected))


def test_the_network_itself_can_be_the_stop(chunks):
    network, visited = nn.Conv2d(3, 2, 3), []
    lockstep(network, {"": network}, chunks, identity({"": network}, visited))
    assert [name for name, _ in visited] == [""]
    assert all(map(torch.equal, visited[0][1], chunks))


def test_without_stops_the_network_simply_runs(network, chunks, ending):
    ends = ending(network)
    lockstep(network, {}, chunks, identity({}))
    assert len(ends) == 3


def test_inputs_are_freed_once_they_are_used(chunks):
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 1))
    network.requires_grad_(False)
    taken = []

    def visit(name, inputs):
        taken.clear()
        return partial(answer, name)

    def answer(name, x):
        assert all(ref() is None for ref in taken)
        if name != "0":  # whose inputs are the images
            taken.append(weakref.ref(x))
        return network.get_submodule(name)(x)

    lockstep(network, {name: network.get_submodule(name) for name in "013"}, chunks, visit)
    assert len(taken) >= 3


class Failing(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Identity(), nn.Identity()

    def forward(self, images):
        x = self.one(images)
        if (images > 0).all():
            raise ArithmeticError("in the network")
        return self.two(x)


def assert_unpatched(network, stops):
    for module in stops.values():
        assert "forward" not in vars(module)
        assert not vars(module).get("_compiled_call_impl")
        assert module.forward == type(module).forward.__get__(module)
        assert torch.equal(module(torch.arange(3.0)), torch.arange(3.0))


@pytest.mark.parametrize("fails_at", ["visit", "answer", "network", "never"])
def test_modules_are_restored(fails_at):
    network = Failing()
    stops, answered = {"one": network.one, "two": network.two}, []

    def visit(name, inputs):
        if fails_at == "visit":
            raise ArithmeticError("in the visit")
        return answer

    def answer(x):
        answered.append(x)
        if fails_at == "answer" and len(answered) == 2:
            raise ArithmeticError("in the answer")
        return x

    chunks = [-torch.ones(3), -torch.ones(3) if fails_at != "network" else torch.ones(3)]
    if fails_at == "never":
        lockstep(network, stops, chunks, visit)
    else:
        with pytest.raises(ArithmeticError, match="in the"):
            lockstep(network, stops, chunks, visit)
    assert_unpatched(network, stops)


def test_modules_are_unpatched_within_a_visit():
    network = Failing()
    stops = {"one": network.one, "two": network.two}

    def visit(name, inputs):
        assert_unpatched(network, stops)
        return answer

    def answer(x):
        assert_unpatched(network, stops)
        return x

    lockstep(network, stops, [-torch.ones(3)] * 2, visit)


class Two(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.both, self.call = nn.Bilinear(3, 3, 2), call

    def forward(self, images):
        return self.call(self.both, images)


@pytest.mark.parametrize(
    "call",
    [
        lambda module, x: module(x, x),
        lambda module, x: module(x, input2=x),
        lambda module, x: module(input1=x, input2=x),
        lambda module, x: module(input=x),
        lambda module, x: module([x]),
        lambda module, x: module(),
    ],
)
def test_a_stop_must_be_called_with_one_tensor(call):
    network = Two(call)
    with pytest.raises(ValueError, match="`both` must be called with one tensor"):
        lockstep(network, {"both": network.both}, [torch.ones(2, 3)], identity({}))


class Dependent(nn.Module):
    """Takes a path that depends on the image's sign."""

    def __init__(self, paths):
        super().__init__()
        self.layers = nn.ModuleDict({name: nn.Identity() for name in "abc"})
        self.paths = paths

    def forward(self, images):
        for name in self.paths[0 if images.sum() > 0 else 1]:
            images = self.layers[name](images)
        return images


@pytest.mark.parametrize(
    ("paths", "place"),
    [
        (("abc", "acb"), "first at `b` and `c`;"),
        (("ab", "a"), "first at `b` and its end;"),
        (("a", "ab"), "first at `b` and its end;"),
        (("", "c"), "first at `c` and its end;"),
        (("aab", "ab"), "first at `a` and `b`;"),
    ],
)
@pytest.mark.parametrize("signs", [(1, -1), (-1, 1), (1, 1, -1), (-1, 1, 1)])
def test_different_paths_for_different_images_are_refused(paths, place, signs):
    network = Dependent(paths)
    stops = dict(network.layers)
    chunks = [sign * torch.ones(2) for sign in signs]
    with pytest.raises(ValueError, match=rf"Dependent takes different paths .*{place}.*`nearest`"):
        lockstep(network, stops, chunks, identity(stops))
    assert_unpatched(network, stops)


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, images):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.two(self.one(images))


def test_autocast_is_refused_and_does_not_last():
    network, chunks = Mixed(), [torch.ones(2, 3)] * 2
    stops = {"one": network.one, "two": network.two}
    with pytest.raises(ValueError, match=r"`one` is called under autocast.* use `nearest`"):
        lockstep(network, stops, chunks, identity(stops))
    assert not torch.is_autocast_enabled("cpu")
