"""Floors only look down: which folder may import which, and no module in a circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MATHEMATICS = {
    *("attacks", "attacks.continual", "attacks.federated", "attacks.metrics"),
    *("quantization", "quantization.rounding", "pruning", "continual", "datamodules"),
}
LIGHTNING = {"lightning_modules", "lightning_modules.callbacks"}
ALLOWED = {  # what each floor may import of ours beside itself
    "attacks": {"attacks.metrics"},
    "attacks.federated": {"attacks", "attacks.metrics"},  # above: the same game, with rounds in it
    "attacks.continual": {"attacks", "attacks.metrics"},  # likewise, with tasks
    "attacks.metrics": set(),
    "quantization": {"quantization.rounding"},
    "quantization.rounding": set(),
    "pruning": set(),
    "continual": set(),
    "datamodules": set(),
    "storage": MATHEMATICS,
    "lightning_modules": {"storage"} | LIGHTNING | MATHEMATICS,
    "lightning_modules.callbacks": {"storage"} | LIGHTNING | MATHEMATICS,
    "reporting": {
        *("attacks", "attacks.continual", "attacks.federated", "attacks.metrics", "storage"),
    },
    "fleet": {"storage"} | LIGHTNING | MATHEMATICS,
    "train": {"fleet", "storage"},
    "audit": {"attacks", "storage", "reporting"},
    "docs.pruning": {"attacks", "attacks.metrics", "docs.study", "reporting", "storage"},
    "docs.federated": {
        *("attacks", "attacks.federated", "attacks.metrics"),
        *("docs.study", "quantization", "quantization.rounding", "reporting", "storage"),
    },
    "docs.continual": {
        *("attacks", "attacks.continual", "attacks.metrics"),
        *("docs.study", "lightning_modules", "reporting", "storage"),
    },
    "docs.mixed": {"attacks", "attacks.metrics", "docs.study", "reporting", "storage"},
    "docs.study": {  # of lightning_modules the options, which it prints in commands
        *(
            "attacks",
            "attacks.metrics",
            "quantization",
            "lightning_modules",
            "storage",
            "reporting",
        ),
    },
}
FOREIGN = {  # other people's packages that a floor must do without
    "attacks": {"lightning", "wandb", "matplotlib", "plotly", "rich", "jinja2", "safetensors"},
    "quantization": {"lightning", "wandb", "matplotlib", "rich", "safetensors"},
    "pruning": {"lightning", "wandb", "matplotlib", "rich", "safetensors"},
    "continual": {"lightning", "wandb", "matplotlib", "rich", "safetensors"},
    "storage": {"lightning", "matplotlib", "plotly", "rich", "jinja2"},
    "reporting": {"lightning", "ray"},
}


def product_modules() -> dict[str, Path]:
    """Every module of ours, by its dotted name."""
    files = [ROOT / "train.py", ROOT / "audit.py"]
    for folder in sorted({floor.split(".")[0] for floor in ALLOWED} - {"train", "audit"}):
        files += sorted((ROOT / folder).rglob("*.py"))
    names = (".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files)
    return {name.removesuffix(".__init__"): file for name, file in zip(names, files, strict=True)}


MODULES = product_modules()


def floor_of(module: str) -> str:
    """The floor that a module stands on: its package, or the command itself."""
    return module if module in ALLOWED else module.rpartition(".")[0]


def imports_of(file: Path) -> set[str]:
    """Every module that a file imports, wherever in the file."""
    imported: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            imported |= inner & MODULES.keys() or {node.module}
    return imported


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_floors_below_it(module):
    floor, imported = floor_of(module), imports_of(MODULES[module])
    ours = {floor_of(name) for name in imported & MODULES.keys()}
    assert ours - {floor} <= ALLOWED[floor]
    foreign = FOREIGN.get(floor.split(".")[0], set())
    assert not foreign & {name.split(".")[0] for name in imported}


def test_no_module_stands_in_a_circle():
    """A package's own `__init__` counts for those that name it, not for its modules."""
    graph = {name: imports_of(file) & MODULES.keys() - {name} for name, file in MODULES.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)
