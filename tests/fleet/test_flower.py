"""The strategy of docs/federated_dumps.md, under flwr where it is installed, and what it writes."""

import re
import sys
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lightning_modules.architectures import mlp
from storage.dumps import check_shapes, read_dump

PAGE = Path(__file__).parents[2] / "docs" / "federated_dumps.md"
BUILD = partial(mlp, 2, (3,), [4])
CLIENTS, EXAMPLES = 3, [1, 2, 3]  # clients 2 and 0 reply first; their shares of the mean


@pytest.fixture
def strategy():
    """Run the page's code with whatever `flwr` is importable, and return its class."""

    def load():
        (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
        assert len(code.splitlines()) <= 35
        names = {}
        exec(code, names)
        return names["DumpingFedAvg"]

    return load


class Arrays(dict):
    """A stand-in for Flower's record of arrays."""

    def to_torch_state_dict(self):
        return dict(self)


class FedAvg:
    """A stand-in for Flower's strategy."""

    arrayrecord_key = "arrays"

    def configure_train(self, server_round, arrays, config, grid):
        return [SimpleNamespace(content={"arrays": arrays}) for _ in range(CLIENTS)]

    def aggregate_train(self, server_round, replies):
        contents = [reply.content for reply in replies if not reply.has_error()]
        total = sum(content["metrics"]["num-examples"] for content in contents)
        shares = [content["metrics"]["num-examples"] / total for content in contents]
        states = [content["arrays"] for content in contents]
        pairs = [*zip(shares, states, strict=True)]
        means = {key: sum(share * state[key] for share, state in pairs) for key in states[0]}
        return Arrays(means), {}


def stand_in(patch):
    """Make `flwr` importable, as far as the page's code needs it; how to make a reply."""
    modules = {name: ModuleType(name) for name in ("flwr", "flwr.serverapp")}
    strategies = ModuleType("flwr.serverapp.strategy")
    strategies.FedAvg = FedAvg
    for name, module in (modules | {"flwr.serverapp.strategy": strategies}).items():
        patch.setitem(sys.modules, name, module)

    def reply(message, state, metrics):
        content = {"arrays": Arrays(state), "metrics": metrics}
        return SimpleNamespace(content=content, has_error=lambda: False)

    broken = SimpleNamespace(has_error=lambda: True)
    return Arrays, dict, reply, broken


def real(patch):
    """The same with Flower itself."""
    app = pytest.importorskip("flwr.app")
    # messages name the run, which a server that was started knows
    identity = pytest.importorskip("flwr.supercore.task_identity").TaskIdentity
    for name in ("_task_id", "_run_id", "_node_id"):
        patch.setattr(identity, name, 1)

    def reply(message, state, metrics):
        records = {"arrays": app.ArrayRecord(state), "metrics": app.MetricRecord(metrics)}
        return app.Message(app.RecordDict(records), reply_to=message)

    message = app.Message(app.RecordDict(), dst_node_id=9, message_type="train")
    broken = app.Message(app.Error(code=1, reason="lost"), reply_to=message)
    return app.ArrayRecord, app.ConfigRecord, reply, broken


@pytest.mark.parametrize("engine", [stand_in, real], ids=["stand-in", "flwr"])
def test_the_strategy_of_the_page_writes_a_dump(engine, strategy, monkeypatch, tmp_path):
    make_arrays, make_config, reply, broken = engine(monkeypatch)
    folder = tmp_path / "federation-0"
    server = strategy()(folder)
    grid = SimpleNamespace(get_node_ids=lambda: [11, 12, 13])
    sent = BUILD().state_dict()
    arrays, trained = make_arrays(sent), {}
    for number in (1, 2):
        messages = list(server.configure_train(number, arrays, make_config(), grid))
        assert len(messages) == CLIENTS
        replies = []
        for client in (2, 0, 1):
            state = {key: value + 10 * number + client for key, value in sent.items()}
            metrics = {"num-examples": EXAMPLES[client], "partition-id": client}
            replies.append(reply(messages[client], state, metrics))
            trained[number, client] = state
        arrays, _ = server.aggregate_train(number, iter([*replies, broken]))
    np.savez(folder / "holders.npz", holder=np.array([0, 1, 2, -1]))
    dump = read_dump(folder)
    shapes = {key: tuple(value.shape) for key, value in sent.items()}
    check_shapes([dump], shapes, "mlp")
    for (number, client), state in trained.items():
        torch.testing.assert_close(load_file(dump.uploads[number][client]), state)
    for number in (1, 2):
        mean = {
            key: sum(EXAMPLES[client] * trained[number, client][key] for client in range(3)) / 6
            for key in sent
        }
        torch.testing.assert_close(load_file(dump.sent(number + 1)), mean)
    torch.testing.assert_close(load_file(dump.sent(1)), dict(sent))
