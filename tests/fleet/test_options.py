import pytest

from fleet.options import FleetOptions


def test_several_workers_need_ray(monkeypatch):
    assert not FleetOptions().by_ray
    assert FleetOptions(workers=2).by_ray
    assert FleetOptions(address="auto").by_ray
    monkeypatch.setattr("fleet.options.find_spec", lambda _: None)
    FleetOptions()
    for options in ({"workers": 2}, {"address": "auto"}):
        with pytest.raises(ValueError, match=r"need Ray.*`pip install -e '.\[ray\]'`.*workers 1"):
            FleetOptions(**options)
