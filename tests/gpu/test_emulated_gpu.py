"""Training, quantization and signals on a GPU that is emulated; see conftest.py."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

import train
from fleet.engine import Outcome
from fleet.workers import _work
from lightning_modules.classifier import Classifier
from quantization.methods import METHODS
from quantization.rounding import obc as obc_module
from quantization.rounding.adaround import Settings, learn_rounding
from quantization.rounding.descent import _State, improve
from quantization.rounding.gram import Quadratic
from quantization.rounding.grid import find_grid
from quantization.rounding.obc import obc
from storage.names import ModelName

VARIANTS = (
    "nearest-w1.58 adaround-w2 adaround-w2-paper brecq-w1.58-fisher obc-w2 obc-w1.58-bn gptq-w3 "
    "adaround-w4-folded gptq-w2-noise0.5 adaround-w2-zeros adaround-w2-noise"
)
OPTIONS = (
    f"--quantize {VARIANTS} --model.network own_networks.Small --fleet.shadows 2 --fleet.targets 0 "
    "--fleet.models 0 --record_embeddings true --trainer.max_epochs 2 --data.pool_size 128"
)
# Today's numbers per training step of `own_networks.Small`, step of a published loop and greedy
# step of OBC, so that more of them are noticed: each costs the CPU 5 to 10 microseconds.
MOST_KERNELS = {"training": 110, "loop": 52, "greedy": 20}


@pytest.fixture
def short_loops(monkeypatch):
    """Published loops of two steps."""
    for name in ("adaround", "brecq"):
        method = METHODS[name]
        paper = method.paper._replace(loop=method.paper.loop._replace(iterations=2))
        monkeypatch.setitem(METHODS, name, method._replace(paper=paper))


def test_a_fit_on_a_gpu_leaves_the_bytes_of_a_cpu(
    short_loops, own_networks, request, toy, tmp_path, tensors, monkeypatch
):
    train.main(toy(tmp_path / "cpu", OPTIONS))
    gpu = request.getfixturevalue("emulated")
    seen, real = [], Classifier.training_step

    def step(self, batch, batch_idx):
        assert batch.images.device == self.device == gpu.device
        seen.append((self.current_epoch, gpu.counts.waited(), gpu.counts.launched()))
        return real(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", step)
    train.main(toy(tmp_path / "gpu", OPTIONS))
    assert tensors(tmp_path / "gpu") == tensors(tmp_path / "cpu")
    pairs = [(a, b) for a, b in pairwise(seen) if a[0] == b[0]]
    assert len(pairs) == 6
    for before, after in pairs:
        assert after[1] == before[1], f"a training step waits: {gpu.counts.waits}"
        assert after[2] - before[2] <= MOST_KERNELS["training"]
    assert not gpu.counts.waits["indices"], "an index on the CPU, which CUDA copies and waits for"
    if torch.version.cuda:
        has = torch._C._dispatch_has_computed_kernel_for_dispatch_key
        assert not [name for name in gpu.counts.operations if not has(name, "CUDA")]


def test_a_fit_begun_on_a_cpu_goes_on_on_a_gpu(own_networks, request, toy, tmp_path, tensors):
    """With the bytes of one that the CPU ended."""
    options, real = f"{OPTIONS} --quantize nearest-w2", Classifier.training_step
    train.main(toy(tmp_path / "cpu", options))
    stopped = tmp_path / "stopped"

    def stop(self, batch, batch_idx):
        if self.current_epoch == 1:
            raise SystemExit("killed")
        return real(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "training_step", stop)
        with pytest.raises(SystemExit, match="killed"):
            train.main(toy(stopped, options))
    assert list(stopped.rglob("last.ckpt"))
    request.getfixturevalue("emulated")
    train.main(toy(stopped, options))
    assert tensors(stopped) == tensors(tmp_path / "cpu")


def test_the_dry_run_tries_its_steps_on_a_gpu(
    emulated, own_networks, short_loops, toy, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("quantization.timing.TRIAL_STEPS", 2)
    # one variant per kind of estimate: no trial, trials of layers, trials of a published loop
    variants = "--quantize nearest-w1.58 obc-w2 adaround-w2-paper"
    train.main(toy(tmp_path / "run", f"{OPTIONS} {variants} --fleet.dry_run true"))
    assert "adaround-w2-paper" in capsys.readouterr().out
    assert emulated.counts.kernels["convolution_backward"] > 0
    assert not (tmp_path / "run").exists()


def test_a_worker_of_ray_works_on_a_gpu(emulated):
    def work(name):
        total = torch.ones(3, device=emulated.device).sum().item()
        return Outcome(name, "finished", total)

    names, threads = [ModelName("shadow", 0), ModelName("shadow", 1)], torch.get_num_threads()
    outcomes = list(_work(work, names, threads, 1.0))
    assert outcomes == [Outcome(name, "finished", 3.0) for name in names]


def test_a_step_of_a_published_loop_waits_for_nothing(emulated, rng):
    layer, inputs = nn.Linear(8, 4, bias=False), torch.randn(40, 8, generator=rng)
    weight = {"fc": layer.weight.detach().to(emulated.device)}
    grids = {"fc": find_grid(weight["fc"], 2, symmetric=False)}
    inputs = inputs.to(emulated.device)
    targets = inputs @ weight["fc"].T

    def count(steps):
        before = emulated.counts.waited(), emulated.counts.launched()
        settings, generator = Settings(steps), torch.Generator().manual_seed(0)
        forward = lambda rows, x: x @ rows["fc"].T  # noqa: E731
        learn_rounding(weight, grids, forward, inputs, targets, settings, generator)
        return emulated.counts.waited() - before[0], emulated.counts.launched() - before[1]

    (waits, kernels), (more_waits, more_kernels) = count(10), count(30)
    assert more_waits == waits
    assert more_kernels - kernels <= 20 * MOST_KERNELS["loop"]


def test_descent_waits_once_per_eight_moves(emulated, rng, monkeypatch):
    weight, inputs = torch.randn(16, 40, generator=rng), torch.randn(60, 40, generator=rng)
    grid, gram = find_grid(weight, 4, symmetric=False), (inputs.T @ inputs)[None]
    start = torch.zeros(16, 40, dtype=torch.uint8)
    parts = weight, gram, weight @ gram[0], torch.ones(16)
    expected = improve(start, grid, Quadratic(*parts[1:]))
    rounds, real = [], _State.only
    monkeypatch.setattr(_State, "only", lambda *args: rounds.append(args) or real(*args))
    weight, gram, cross, power = (part.to(emulated.device) for part in parts)
    grid = type(grid)(*(part.to(emulated.device) for part in grid[:2]), grid.levels)
    start, before = start.to(emulated.device), emulated.counts.waited()
    codes = improve(start, grid, Quadratic(gram, cross, power))
    assert emulated.counts.waited() - before == len(rounds) > 10
    assert torch.equal(codes.cpu(), expected)


def test_obc_waits_once_per_batch_of_rows_and_not_per_row_block_or_step(emulated, rng, monkeypatch):
    def count(rows, columns, together, sparse=False):
        weight, inputs = torch.randn(rows, columns, generator=rng), torch.randn(500, columns)
        if sparse:
            weight[:, 0] = 0
        grid = find_grid(weight, 2, symmetric=False)
        expected = obc(weight, grid, (inputs.T @ inputs)[None])
        monkeypatch.setattr(obc_module, "SPACE", together * columns**2)
        there = [t.to(emulated.device) for t in (weight, (inputs.T @ inputs)[None])]
        grid = type(grid)(*(t.to(emulated.device) for t in grid[:2]), grid.levels)
        before = emulated.counts.waited(), emulated.counts.launched()
        codes = obc(there[0], grid, there[1])
        made = emulated.counts.waited() - before[0], emulated.counts.launched() - before[1]
        assert torch.equal(codes.cpu(), expected)
        return made

    for sparse in (False, True):
        one, more_columns = count(8, 40, 8, sparse), count(8, 150, 8, sparse)
        more_rows, more_batches = count(16, 40, 16, sparse), count(16, 40, 4, sparse)
        assert one[0] == more_columns[0] == more_rows[0] < more_batches[0]
        assert one[1] <= 40 * MOST_KERNELS["greedy"] + 60
        assert more_batches[1] > 3 * more_rows[1]


REFUSED = {
    "two devices": lambda there, here: there + here,
    "a layer elsewhere": lambda there, here: nn.Linear(3, 3)(there),
    "values elsewhere": lambda there, here: there.index_put((torch.tensor([0]),), here[:1]),
    "an index there": lambda there, here: here[
        torch.zeros(1, dtype=torch.long, device=there.device)
    ],
    "an index elsewhere": lambda there, here: there.index_select(0, torch.tensor([1])),
    "a generator": lambda there, here: torch.rand(
        3, device=there.device, generator=torch.Generator()
    ),
    "NumPy": lambda there, here: there.numpy(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_refuses_what_cuda_refuses(emulated, name):
    there, here = torch.ones(3, device=emulated.device), torch.ones(3)
    with pytest.raises((RuntimeError, TypeError)):
        REFUSED[name](there, here)


def test_it_allows_and_counts_what_cuda_allows(emulated):
    there, waits = torch.ones(3, device=emulated.device), emulated.counts.waits
    assert (there + torch.tensor(1.0)).device == emulated.device  # a number of the CPU
    assert emulated.counts.waited() == 0
    for use, reason in (
        (partial(torch.Tensor.item, there.sum()), "_local_scalar_dense"),
        (lambda: there[torch.tensor([0])], "indices"),
        (lambda: there[there > 0], "mask"),
        (there.cpu, "copy"),
        (lambda: torch.ones(2).to(emulated.device), "copy"),
    ):
        before = waits[reason]
        use()
        assert waits[reason] == before + 1
