import ml_dtypes
import numpy as np
import pytest
import torch

from attacks.cases import Case
from attacks.game import ModelSignals
from attacks.signals import signals
from storage.external_signals import gather_external


@pytest.fixture(params=[False, True], ids=["npz", "folder"])
def read(request, save_arrays, tmp_path):
    """Write arrays, read them back."""
    return lambda arrays: gather_external(save_arrays(arrays, tmp_path, request.param))


@pytest.mark.parametrize(
    "dtype", ["<f4", ">f4", "<f2", "<f8", ml_dtypes.bfloat16], ids=["f4", "big", "f2", "f8", "bf16"]
)
@pytest.mark.parametrize("queries", [0, 1, 2])
def test_signals_are_those_of_the_logits(read, layout, dtype, queries):
    arrays = layout(queries)
    for name in arrays:
        if name.endswith(("logits", "phi")):
            arrays[name] = arrays[name].astype(dtype)
    game = read(arrays).game

    def stack(name):
        both = np.concatenate([arrays[name.format(role)] for role in ("shadow", "target")])
        tensor = torch.from_numpy(both.astype(np.float64))
        return tensor if queries else tensor[:, None]

    labels = {key: torch.from_numpy(arrays[key].astype(np.int64)) for key in arrays if "lab" in key}
    own = signals(stack("full/{}_logits"), labels["labels"])
    population = signals(stack("full/{}_population_logits"), labels["population_labels"])
    assert game.cases == [Case(position, list(range(6))) for position in (6, 7, 8)]
    members = np.concatenate([arrays["shadow_members"], arrays["target_members"]])
    assert torch.equal(game.members, torch.from_numpy(members))
    phi, population_phi = (stack(f"int8/{{}}_{part}phi").float() for part in ("", "population_"))
    expected = {
        "full": ModelSignals(own.phi, own.hinge, population.phi, population.hinge),
        "int8": ModelSignals(phi, None, population_phi, None),
    }
    assert list(game.signals) == ["full", "int8"]
    for variant, known in expected.items():
        for signal, tensor in zip(game.signals[variant], known, strict=True):
            if tensor is None:
                assert signal is None
            else:
                assert signal.dtype == tensor.dtype
                assert torch.equal(signal, tensor)


def test_full_comes_first_and_optional_arrays_may_be_missing(read, layout):
    arrays = layout()
    phi = {name: array for name, array in arrays.items() if "population" not in name}
    del phi["labels"], phi["full/shadow_logits"], phi["full/target_logits"]
    for role in ("shadow", "target"):
        phi[f"full/{role}_phi"] = phi[f"int8/{role}_phi"]
        phi[f"awq/{role}_phi"] = phi[f"int8/{role}_phi"]
    by_variant = read(phi).game.signals
    assert next(iter(by_variant)) == "full"
    assert set(by_variant) == {"full", "awq", "int8"}
    for known in by_variant.values():
        assert known.hinge is known.population is known.population_hinge is None


def test_hinge_needs_logits_of_shadows_and_targets(read, layout):
    arrays = layout()
    arrays["full/shadow_phi"] = arrays.pop("full/shadow_logits").max(-1)
    full = read(arrays).game.signals["full"]
    assert full.hinge is None
    assert full.phi.shape == (6 + 3, 2, 40)


def test_arrays_in_fortran_order_are_read_as_they_are(read, layout):
    arrays = layout()
    logits = np.concatenate([arrays["full/shadow_logits"], arrays["full/target_logits"]])
    expected = signals(torch.from_numpy(logits), torch.from_numpy(arrays["labels"])).phi
    turned = {name: np.asfortranarray(array) for name, array in arrays.items()}
    assert torch.equal(read(turned).game.signals["full"].phi, expected)


def test_a_missing_file_and_an_empty_folder_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No .*missing\.npz. Give an \.npz file, or"):
        gather_external(tmp_path / "missing.npz")
    with pytest.raises(
        ValueError, match=r"`full/shadow_logits` must be there, .*got no array in .*A variant needs"
    ):
        gather_external(tmp_path)


def test_files_of_other_formats_are_refused(tmp_path, layout, save_arrays):
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"one\.npy is not a whole \.npz file.*np\.savez"):
        gather_external(tmp_path / "one.npy")
    file = save_arrays(layout(), tmp_path, as_folder=False)
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"given\.npz is not a whole \.npz file"):
        gather_external(file)


def test_a_truncated_file_of_a_folder_is_named(tmp_path, layout, save_arrays):
    folder = save_arrays(layout(), tmp_path, as_folder=True)
    file = folder / "full" / "shadow_logits.npy"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"`full/shadow_logits` must be a whole array"):
        gather_external(folder)


def test_a_folder_is_read_one_model_at_a_time(tmp_path, layout, save_arrays, monkeypatch):
    shapes = []

    def measure(logits, labels):
        shapes.append(logits.shape)
        return signals(logits, labels)

    monkeypatch.setattr("storage.external_signals.signals", measure)

    arrays = {name: array for name, array in layout().items() if "population" not in name}
    gather_external(save_arrays(arrays, tmp_path, as_folder=True))
    assert shapes == [(2, 40, 5)] * (6 + 3)
