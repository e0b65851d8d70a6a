"""Every command in the README and in docs/ runs, at toy size, section by section."""

import json
import re
import shlex
import shutil
import subprocess
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import torch
import wandb
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

import audit
import train
from attacks import ATTACKS
from datamodules import CIFAR10, Digits
from datamodules.images import Images
from fleet import export
from fleet.dumps import main as record_dumps
from fleet.signals import main as record_signals
from lightning_modules.architectures import mlp

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


class Section(NamedTuple):
    """The commands below one heading of second level, in the order in which they are shown."""

    page: str
    heading: str
    commands: list[list[str]]  # the arguments of `python`


def read_sections(page: Path) -> list[Section]:
    """The sections of a page that show commands."""
    sections = []
    for text in re.split(r"^## ", page.read_text(), flags=re.MULTILINE):
        blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
        lines = blocks.replace("\\\n", " ").splitlines()
        words = [shlex.split(line, comments=True) for line in lines]
        if commands := [line[1:] for line in words if line[:1] == ["python"]]:
            sections.append(Section(page.name, text.splitlines()[0].strip("# "), commands))
    return sections


def drop_repeated(sections: list[Section]) -> list[Section]:
    """The sections with a command that none before them has, in the same order."""
    kept = []
    for section in sections:
        if not any(is_within(section.commands, before.commands) for before in kept):
            kept.append(section)
    return kept


def is_within(commands: list[list[str]], others: list[list[str]]) -> bool:
    """Whether these commands are among the others, in this order."""
    remaining = iter(others)
    return all(command in remaining for command in commands)


SHOWN = [section for page in PAGES for section in read_sections(page)]
SECTIONS = drop_repeated(SHOWN)
DEMO = SECTIONS[0].commands
TOY = shlex.split(
    "--trainer.max_epochs 6 --snapshots 5 --fleet.shadows 4 --fleet.targets 1 --threads 1 "
    "--model.network convnet --quantize nearest-w2 adaround-w2"
)
SMALLER = {"--data.pool_size": "60", "--fleet.shadows": "6"}  # where a command asks for more
ONE_CPU = shlex.split(
    "--trainer.accelerator cpu --trainer.devices 1 --trainer.strategy auto "
    "--fleet.workers 1 --fleet.gpus_per_model 0"
)


def read_snippets(page: str) -> list[str]:
    """The Python code on a page."""
    (path,) = (path for path in PAGES if path.name == page)
    return re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)


def named_snippets() -> dict[str, str]:
    """Snippets that are files: their docstring begins with their name and a colon."""
    snippets = [code for page in PAGES for code in read_snippets(page.name)]
    names = [re.match(r'"""(\w+\.py): ', code) for code in snippets]
    return {name[1]: code for name, code in zip(names, snippets, strict=True) if name}


def photographs(self):
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(256, (100, 3, 32, 32), dtype=torch.uint8, generator=rng)
    return Images(images, torch.arange(100) % 10), Images(images[:20], torch.arange(20) % 10)


def overfitted():
    """Logits of 9 models, labels and membership: members' true class stands out."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 5
    halves = torch.rand(5, 60, generator=rng).argsort(1) < 30
    members = torch.cat([halves, ~halves[1:]])
    logits = torch.randn(9, 60, 5, generator=rng)
    return logits + 4 * members[..., None] * (torch.arange(5) == labels[:, None]), labels, members


def write_engines(folder):
    """ONNX files of a target and 4 shadows of 80 photographs, two pairs of halves."""
    (folder / "engines").mkdir()
    shape = {"images": ["batch", 3, 32, 32], "logits": ["batch", 2]}
    ends = {k: onnx.helper.make_tensor_value_info(k, 1, axes) for k, axes in shape.items()}
    nodes = [
        onnx.helper.make_node("Flatten", ["images"], ["rows"], axis=1),
        onnx.helper.make_node("MatMul", ["rows", "weight"], ["logits"]),
    ]
    rng = np.random.default_rng(0)
    for name in ("target-0", *(f"shadow-{number}" for number in range(4))):
        weight = onnx.numpy_helper.from_array(rng.normal(size=(3072, 2)).astype("f4"), "weight")
        graph = onnx.helper.make_graph(nodes, name, [ends["images"]], [ends["logits"]], [weight])
        opsets = [onnx.helper.make_opsetid("", 17)]
        model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
        onnx.save(model, folder / "engines" / f"{name}.onnx")
    halves = rng.random((3, 80)).argsort(1) < 40
    np.save(folder / "target_members.npy", halves[:1])
    np.save(folder / "shadow_members.npy", np.concatenate([halves[1:], ~halves[1:]]))


def toy(command: list[str]) -> list[str]:
    """Shrink what the recipe says, and leave what the command itself says except hardware."""
    recipe = command.index("--config") + 2
    options = [*command[1:recipe], *TOY, *command[recipe:], *ONE_CPU]
    for option, smaller in SMALLER.items():
        if option in command:
            options[len(options) - 1 - options[::-1].index(option) + 1] = smaller
    return options if "--data.pool_size" in options else [*options, "--data.pool_size", "60"]


def run(command: list[str]) -> None:
    """Run a command of a page in this process."""
    script, *options = command
    if script == "-m":
        module, *options = options
        expanded = [sorted(map(str, Path().glob(o))) if "*" in o else [o] for o in options]
        commands = {
            "fleet.export": export.main,
            "fleet.signals": record_signals,
            "fleet.dumps": record_dumps,
        }
        commands[module]([option for options in expanded for option in options])
    elif script == "audit.py":
        audit.main(options)
    else:
        assert script == "train.py"
        train.main(toy(command) if "--config" in options else options)


def expected(command: list[str]) -> str:
    """A pattern that a command prints only if it did what it is shown for."""
    if "--status" in command:
        return "finished"
    if "--fleet.dry_run" in command:
        return "GPU hours"
    if "--compare" in command:
        return r"comparison\.csv"
    if "fleet.signals" in command:
        return r"Then: python audit\.py --signals path/to/recorded"
    if "fleet.dumps" in command:
        return r"Then: python audit\.py --signals path/to/rounds"
    patterns = {
        "-m": r"[\d,]+ bytes, [\d,]+ at full precision",
        "train.py": r"Next: python audit\.py",
        "audit.py": r"report\.html",
    }
    return patterns[command[0]]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A run folder as `make demo` leaves it, at toy size: to be copied, not changed."""
    place = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        (place / "recipes").symlink_to(ROOT / "recipes")
        for command in DEMO:
            run(command)
    return place / "runs" / "digits"


@pytest.fixture
def workplace(demo, tmp_path, monkeypatch, forget_own, write_dump):
    """A folder as the reader has it: recipes, the demo's run, images, signals, their network."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    shutil.copytree(demo, tmp_path / "runs" / "digits")
    (tmp_path / "my_networks.py").write_text(read_snippets("data.md")[0])
    for name, code in named_snippets().items():
        (tmp_path / name).write_text(code)
        forget_own(name.removesuffix(".py"))
    for kind, shade in (("cat", 40), ("dog", 200)):
        folder = tmp_path / "path" / "to" / "images" / kind
        folder.mkdir(parents=True)
        for number in range(50):
            Image.new("RGB", (20, 30), (shade, 5 * number, 0)).save(folder / f"{number}.png")
    logits, labels, members = overfitted()
    arrays = {"shadow_members": members[1:], "target_members": members[:1], "labels": labels}
    arrays |= {"engine-w4/target_logits": logits[:1], "engine-w4/shadow_logits": logits[1:]}
    signals = {name: tensor.numpy() for name, tensor in arrays.items()}
    np.savez(tmp_path / "path" / "to" / "signals.npz", **signals)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "path" / "to" / "table.npz", x=rng.random((100, 9)), y=np.arange(100) % 2)
    write_engines(tmp_path / "path" / "to")
    features, labels = rng.random((60, 9), np.float32), np.arange(60) // 2 % 2
    splits = {"x": features[:48], "y": labels[:48], "x_test": features[48:], "y_test": labels[48:]}
    np.savez(tmp_path / "path" / "to" / "records.npz", **splits)
    tensors = torch.from_numpy(splits["x"]), torch.from_numpy(splits["y"])
    dump = tmp_path / "path" / "to" / "dumps" / "federation-0"
    write_dump(dump, *tensors, partial(mlp, 2, (9,)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(CIFAR10, "fetch", lambda self: None)
    monkeypatch.setattr(CIFAR10, "read", photographs)
    before = dict(ATTACKS)
    yield tmp_path
    ATTACKS.clear()
    ATTACKS.update(before)  # without those of the pages
    wandb.teardown()  # waits for W&B's own process, however slow: it still writes to this folder


def test_no_page_lost_its_commands():
    assert {section.page for section in SHOWN} >= {
        "README.md", "analytic_learners.md", "attacks.md", "channel_pruning.md",
        "continual_training.md", "dashboard.md", "data.md", "deploy.md", "dp.md",
        "external_signals.md", "federated_attacks.md", "federated_dumps.md",
        "federated_training.md", "metrics.md", "paper.md", "quantization.md", "run_folder.md",
        "scaling.md",
    }  # fmt: skip
    assert sum(len(section.commands) for section in SHOWN) > 25


@pytest.mark.fleet
@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: f"{section.page}: {section[1]}")
def test_the_commands_of_a_section_run(section, workplace, capsys):
    for command in section.commands:
        run(command)
        assert re.search(expected(command), capsys.readouterr().out), command
    for command in section.commands:
        for option in command:
            assert not option.startswith("runs/") or Path(option).is_dir()


class LoggedRun(NamedTuple):
    """A stand-in for a W&B run, which keeps what it is given."""

    charts: dict
    summary: dict
    entity: str = ""

    def log(self, charts):
        self.charts.update(charts)


@pytest.mark.fleet
def test_an_audit_logs_the_keys_of_the_page(workplace, monkeypatch):
    page = (ROOT / "docs" / "dashboard.md").read_text()
    keys = re.findall(r"`((?:risk|matched|unquantized)/[a-z_]+/[\w.-]+(?:/\w+)?)`", page)
    assert len(keys) == 3
    finding = re.search(r"\| `findings/KEY` .*", page)[0]
    findings = {f"findings/{key}" for key in re.findall(r"`(\w+)`", finding)}
    run = LoggedRun({}, {})
    monkeypatch.setattr(wandb, "init", lambda **_: nullcontext(run))
    audit.main(["--run_dir", "runs/digits", "--wandb", "offline"])
    assert set(keys) <= run.summary.keys()
    shown = {key for key in run.charts if key.startswith("findings/")}
    assert shown
    assert shown <= findings


@pytest.mark.fleet
def test_the_run_folder_has_every_file_of_its_page(workplace):
    page = (ROOT / "docs" / "run_folder.md").read_text()
    tree = re.search(r"\n    runs/digits/\n(.*?)\n\n", page, re.DOTALL)[1]
    named = re.findall(r"[\w.-]+\.(?:yaml|ckpt|safetensors|html|csv|json|txt)|SHA256SUMS", tree)
    assert len(named) > 8
    assert set(named) <= {path.name for path in Path("runs/digits").rglob("*")}


def test_the_attacks_are_a_library():
    logits, labels, members = overfitted()
    names = {"logits": logits, "labels": labels, "members": members}
    exec(read_snippets("attacks.md")[-1], names)
    auc = names["summarise"](names["scores"][None], members[:1]).auc
    assert auc.low > 0.8
    assert auc.value == pytest.approx(roc_auc_score(members[0], names["scores"]))


@pytest.mark.fleet
def test_a_pruned_file_is_loaded_in_two_lines(workplace):
    """The network is as narrow as the record says, and as right on each test image as recorded."""
    section = next(section for section in SHOWN if section.page == "channel_pruning.md")
    run(section.commands[0])
    names = {}
    exec(read_snippets("channel_pruning.md")[0], names)
    folder = Path("runs/pruned/models/target-000")
    record = json.loads((folder / "full.json").read_text())
    count = sum(weight.numel() for weight in names["network"].parameters())
    assert [count, count < record["parameters"][0]] == [record["parameters"][1], True]
    stored = load_file(folder / "signals" / "full.safetensors")
    data = Digits(pool_size=60)
    data.prepare_data()
    data.setup("test")
    with torch.inference_mode():
        right = [names["network"](b.images).argmax(1) == b.labels for b in data.test_batches()]
    assert torch.equal(torch.cat(right), stored["test_correct"].bool().flatten())


def test_every_python_snippet_is_run_above():
    snippets = {page.name: page.read_text().count("```python") for page in PAGES}
    assert {page: count for page, count in snippets.items() if count} == {
        "attacks.md": 2,
        "channel_pruning.md": 1,
        "data.md": 1,
        "federated_dumps.md": 1,  # in tests/fleet/test_flower.py
        "quantization.md": 1,
    }


def test_make_demo_is_the_two_commands():
    printed = subprocess.run(
        ["make", "--dry-run", "demo", "VENV=.nowhere"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    commands = [line.split("python ", 1)[1] for line in printed.splitlines() if ".py" in line]
    assert commands == [" ".join(command) for command in DEMO]
    assert "pip install" in printed


def test_the_fast_tests_leave_out_whole_fleets():
    printed = subprocess.run(
        ["make", "--dry-run", "test-fast", "VENV=.nowhere"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout
    (pytest_line,) = [line for line in printed.splitlines() if "-m pytest" in line]
    assert "not fleet" in pytest_line
    assert all(tool in printed for tool in ("ruff check", "ruff format --check", "bin/mypy"))


@pytest.mark.parametrize(
    "page", [*PAGES, *ROOT.glob("C*.md"), ROOT / "SECURITY.md"], ids=lambda page: page.name
)
def test_links_lead_somewhere(page):
    text = page.read_text()
    for link in re.findall(r"\]\((?!http)([^)]+)\)", text):
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if heading:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert heading in {
                re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings
            }


def test_the_readme_is_one_page():
    assert 6_000 <= (ROOT / "README.md").stat().st_size <= 8_000
