"""ONNX files through the command, then through the audit."""

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file

import train
from attacks.signals import signals as signals_of
from audit import main as audit
from fleet.export import export
from fleet.signals import main
from storage.run_folder import RunFolder

VARIANT = "nearest-w8-a8"
DATA = ["--data", "Digits", "--data.pool_size", "64", "--data.flip", "true", "--data.crop", "1"]


@pytest.fixture(scope="module")
def exported(toy, tmp_path_factory):
    """A run folder, and the ONNX files of its shadows and of its target."""
    run = tmp_path_factory.mktemp("runs") / "engine"
    train.main(toy(run, f"--quantize {VARIANT} --snapshots"))
    for name in RunFolder(run).read().names:
        export(run, str(name), VARIANT, "onnx", None)
    return run


def record(run, output, role, *options):
    files = sorted(map(str, (run / "export").glob(f"{role}-*.onnx")))
    arguments = ["--role", role, "--members", str(run), "--variant", "engine", *DATA, *options]
    main([*files, "--output", str(output), *arguments])


@pytest.mark.fleet
def test_the_audit_of_a_session_is_that_of_the_network(exported, tmp_path, capsys):
    output = tmp_path / "signals"
    for role in ("shadow", "target"):
        record(exported, output, role, "--queries", "identity", "mirror")
    assert f"audit.py --signals {output}" in capsys.readouterr().out
    membership = RunFolder(exported).membership()
    for role in ("shadow", "target"):
        names = [name for name in membership if name.role == role]
        rows = np.stack([membership[name].numpy() for name in names])
        assert np.array_equal(np.load(output / f"{role}_members.npy"), rows)
        logits = np.load(output / "engine" / f"{role}_logits.npy")
        assert logits.shape == (len(names), 2, 64, 10)
        labels = torch.from_numpy(np.load(output / "labels.npy"))
        for name, model in zip(names, logits, strict=True):
            own = load_file(RunFolder(exported).signals(name, VARIANT))["phi"][0]
            phi = signals_of(torch.from_numpy(model[0]), labels).phi.float()
            # integers round some activations otherwise; see `test_integers.py`
            assert (phi - own).abs().mean() < 0.03
    audit(["--signals", str(output), "--run_dir", str(tmp_path / "audited")])
    results = json.loads((tmp_path / "audited" / "audit" / "results.json").read_text())
    assert "engine" in json.dumps(results)
    # a second call with the same files writes the same bytes
    before = (output / "engine" / "target_logits.npy").read_bytes()
    record(exported, output, "target", "--queries", "identity", "mirror")
    assert (output / "engine" / "target_logits.npy").read_bytes() == before


def foreign(path, kind=TensorProto.FLOAT, image=(1, 8, 8), classes=10, batch="n", out="y"):
    """A linear classifier as another exporter may write it."""
    size = int(np.prod(image))
    weight = np.random.default_rng(0).normal(size=(size, classes)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["f"], ["rows"], axis=1),
        helper.make_node("MatMul", ["rows", "w"], ["y"]),
        helper.make_node("ArgMax", ["y"], ["class"], axis=1, keepdims=0),
    ]
    shapes = {"y": (TensorProto.FLOAT, [batch, classes]), "class": (TensorProto.INT64, [batch])}
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", kind, [batch, *image])],
        [helper.make_tensor_value_info(out, *shapes[out])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return weight


def run_foreign(tmp_path, *files, members=None, options=()):
    rows = np.zeros((len(files), 64), bool) if members is None else members
    np.save(tmp_path / "members.npy", rows)
    arguments = ["--role", "target", "--members", str(tmp_path / "members.npy")]
    arguments += ["--variant", "engine", "--output", str(tmp_path / "out"), *DATA, *options]
    main([*map(str, files), *arguments])


@pytest.mark.parametrize("batch", ["n", 1, 50])
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.DOUBLE])
def test_a_foreign_file_gives_its_logits(tmp_path, batch, kind):
    weight = foreign(tmp_path / "a.onnx", batch=batch, kind=kind)
    run_foreign(tmp_path, tmp_path / "a.onnx", tmp_path / "a.onnx")
    logits = np.load(tmp_path / "out" / "engine" / "target_logits.npy")
    assert np.array_equal(logits[0], logits[1])
    labels = np.load(tmp_path / "out" / "labels.npy")
    assert logits.shape == (2, 1, 64, 10)
    assert labels.shape == (64,)
    population = np.load(tmp_path / "out" / "engine" / "target_population_logits.npy")
    assert population.shape[2] == len(np.load(tmp_path / "out" / "population_labels.npy"))

    from datamodules import Digits

    data = Digits(pool_size=64)
    data.setup("fit")
    (images,) = [batch.images for batch in data.pool_batches("identity")]
    assert np.allclose(logits[0, 0], images.flatten(1).numpy() @ weight, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": TensorProto.UINT8}, r"a.onnx must have one input, of float32 .* tensor\(uint8\)"),
        ({"image": (3, 32, 32)}, r"a.onnx takes images of \[3, 32, 32\], and the data has \[1, 8"),
        ({"image": (64,)}, r"a.onnx takes images of \[64\], and the data has \[1, 8, 8\]"),
        ({"classes": 7}, r"must give a logit for each of the data's 10 classes, got `y` of shape"),
        ({"out": "class"}, r"must give floats, got torch.int64 in `class`. Export the logits"),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path, options, message):
    foreign(tmp_path / "a.onnx", **options)
    with pytest.raises(SystemExit, match=rf"fleet.signals: .*{message}"):
        run_foreign(tmp_path, tmp_path / "a.onnx")
    assert not (tmp_path / "out" / "labels.npy").exists()
    assert not [*tmp_path.rglob("*.partial")]


def test_files_that_are_none_and_other_examples_are_named(tmp_path):
    with pytest.raises(SystemExit, match=r"fleet.signals: No file .*a.onnx. Pass ONNX files"):
        run_foreign(tmp_path, tmp_path / "a.onnx")
    (tmp_path / "a.onnx").write_bytes(b"no graph")
    with pytest.raises(SystemExit, match=r"a.onnx must be an ONNX file that runs, got: "):
        run_foreign(tmp_path, tmp_path / "a.onnx")
    foreign(tmp_path / "a.onnx")
    with pytest.raises(SystemExit, match=r"`--members` must be bool \[1 files, 64 ex.*\[1, 63\]"):
        run_foreign(tmp_path, tmp_path / "a.onnx", members=np.zeros((1, 63), bool))
    with pytest.raises(SystemExit, match=r"`--members` must be bool .* got int64 \[1, 64\]"):
        run_foreign(tmp_path, tmp_path / "a.onnx", members=np.zeros((1, 64), int))
    with pytest.raises(SystemExit, match=r"`--variant` must be a plain name, got `a/b`"):
        run_foreign(tmp_path, tmp_path / "a.onnx", options=["--variant", "a/b"])
    with pytest.raises(SystemExit, match=r"same for every model, got `random-0`"):
        run_foreign(tmp_path, tmp_path / "a.onnx", options=["--queries", "random-0"])
    run_foreign(tmp_path, tmp_path / "a.onnx")
    with pytest.raises(SystemExit, match=r"target_members.npy was written for other examples or"):
        run_foreign(tmp_path, tmp_path / "a.onnx", members=np.ones((1, 64), bool))


def test_logits_that_are_not_finite_are_refused(tmp_path):
    foreign(tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    weight = numpy_helper.to_array(model.graph.initializer[0]).copy()
    weight[0, 0] = np.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(SystemExit, match=r"a.onnx gives logits that are not finite"):
        run_foreign(tmp_path, tmp_path / "a.onnx")


def test_probabilities_are_refused(tmp_path):
    foreign(tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    model.graph.node.append(helper.make_node("Softmax", [model.graph.output[0].name], ["p"]))
    model.graph.output[0].name = "p"
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(SystemExit, match=r"a.onnx gives probabilities.* Export the logits"):
        run_foreign(tmp_path, tmp_path / "a.onnx")


def test_files_of_a_run_are_found_by_their_names(tmp_path, exported):
    foreign(tmp_path / "mine.onnx")
    with pytest.raises(SystemExit, match=r"named for its models, such as `target-000-.*got mine"):
        main(
            [
                *(str(tmp_path / "mine.onnx"), "--role", "target", "--members", str(exported)),
                *("--variant", "engine", "--output", str(tmp_path / "out"), *DATA),
            ]
        )
