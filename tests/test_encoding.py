"""Text is UTF-8 whatever the locale: every call that opens text names its encoding."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [
    path
    for path in sorted([*ROOT.rglob("*.py"), *ROOT.glob(".github/*.py")])
    if path.relative_to(ROOT).parts[0][0] != "." or path.parent.name == ".github"
    if path.relative_to(ROOT).parts[0] not in ("tests", "build")
]
TEXT = {"read_text", "write_text"}
OPENERS = {"open", "fdopen", "TextIOWrapper", "NamedTemporaryFile", "TemporaryFile", "FileHandler"}
PROCESSES = {"run", "Popen", "check_output"}  # which may read another program's output as text
NO_FILES = {"Image.open", "run.open", "tarfile.open"}  # which open pictures, folders, archives


def locale_dependent(source: str) -> list[str]:
    """The calls of a module that read or write text in the encoding of the locale."""
    calls = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or ast.unparse(node.func) in NO_FILES:
            continue
        name = ast.unparse(node.func).rpartition(".")[2]
        words = {word.arg: word.value for word in node.keywords}
        modes = [
            a.value for a in [*node.args[:2], words.get("mode")] if isinstance(a, ast.Constant)
        ]
        binary = any(
            isinstance(mode, str) and set(mode) <= set("rwxab+") and "b" in mode for mode in modes
        )
        as_text = name in TEXT and isinstance(node.func, ast.Attribute)
        opened = name in OPENERS and not binary
        process = name in PROCESSES and {"text", "universal_newlines"} & words.keys()
        if (as_text or opened or process) and "encoding" not in words:
            calls.append(ast.unparse(node))
    return calls


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_module_names_the_encoding_of_every_text_file(file):
    assert locale_dependent(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "call",
    [
        "open(name)",
        "open(name, 'w')",
        "path.open('a', newline='')",
        "path.read_text()",
        "path.write_text(text)",
        "io.TextIOWrapper(raw)",
        "subprocess.run(command, text=True)",
    ],
)
def test_each_way_to_open_text_is_found(call):
    assert locale_dependent(call) == [call]
    assert locale_dependent(call.replace(")", ", encoding='utf-8')").replace("(, ", "(")) == []


@pytest.mark.parametrize(
    "call", ["open(name, 'rb')", "path.open('rb')", "open(name, mode='wb')", "Image.open(raw)"]
)
def test_bytes_have_no_encoding(call):
    assert locale_dependent(call) == []
