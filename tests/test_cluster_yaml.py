"""cluster.yaml against Ray's own validator, which must also refuse a spoilt copy of it."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

FILE = Path(__file__).parent.parent / "cluster.yaml"


def load() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return config


def test_ray_accepts_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("token")
    full = prepare_config(copy.deepcopy(load()))
    validate_config(full)
    assert set(full["available_node_types"]) == {"head", "gpu"}


@pytest.mark.parametrize(
    "change",
    [{"setup_comands": []}, {"max_workers": "four"}, {"head_node_type": "none"}, {"provider": {}}],
)
def test_ray_refuses_a_spoilt_copy(change: dict[str, Any]) -> None:
    with pytest.raises(Exception):  # noqa: B017 - the validator's own errors differ by fault
        validate_config(prepare_config({**load(), **change}))


def test_nothing_is_open_to_the_world_and_no_secret_is_inside() -> None:
    config, text = load(), FILE.read_text()
    (rule,) = config["provider"]["security_group"]["IpPermissions"]
    assert (rule["FromPort"], rule["ToPort"]) == (22, 22)
    assert rule["IpRanges"][0]["CidrIp"].endswith("/32")
    assert "0.0.0.0/0" not in text and "AKIA" not in text
    for kind in config["available_node_types"].values():
        assert kind["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
        assert kind["node_config"]["BlockDeviceMappings"][0]["Ebs"]["Encrypted"] is True
