"""The cluster files, against Ray's validator, botocore's models, moto's AWS and KubeRay's CRD."""

import copy
import json
import shutil
import subprocess
import time
from argparse import ArgumentTypeError
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aws_setup
import boto3
import jsonschema
import pytest
import yaml
from botocore.session import get_session
from botocore.validate import ParamValidator
from moto import mock_aws
from ray.autoscaler import tags
from ray.autoscaler._private.aws import config as ray_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config, validate_config
from s3_service import ENVIRONMENT

ROOT = Path(__file__).parents[2]
AWS, LOCAL = ROOT / "cluster.yaml", ROOT / "experiments" / "cluster_local.yaml"
RAYJOB = ROOT / "experiments" / "rayjob.yaml"
HOME = "203.0.113.7"


def load(file: Path) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(file.read_text())
    return config


@pytest.fixture(scope="module", autouse=True)
def patch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    """The files name what lies in the user's home."""
    home = tmp_path_factory.mktemp("home")
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("token")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.chdir(ROOT)
        yield patch


# -- Ray's validator and botocore's models: typing errors ------------------------------------------


def validate(config: dict[str, Any]) -> dict[str, Any]:
    """As `ray up` does; and each machine as RunInstances takes it, which `ray up` leaves to AWS."""
    full: dict[str, Any] = prepare_config(copy.deepcopy(config))
    validate_config(full)
    if config["provider"]["type"] == "aws":
        shape = get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
        for kind in full["available_node_types"].values():
            values = {"MinCount": 1, "MaxCount": 1, **kind["node_config"]}
            report = ParamValidator().validate(values, shape)
            if report.has_errors():
                raise ValueError(report.generate_report())
    return full


@pytest.mark.parametrize("file", [AWS, LOCAL], ids=lambda f: f.name)
def test_ray_accepts_it_and_is_behind_the_token_with_files_of_its_own(file: Path) -> None:
    config, text = load(file), file.read_text()
    full = validate(config)
    for source in full["file_mounts"].values():
        assert Path(source).expanduser().exists()
    with pytest.raises(Exception):  # noqa: B017 - the validator's own errors differ by fault
        validate({**config, "setup_comands": []})
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        stop, start = config[name]
        assert stop == "ray stop"
        assert start.startswith("umask 077; export RAY_AUTH_MODE=token")
        assert "--disable-usage-stats" in start
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][1]
    assert any("chmod 600 ~/.ray/auth_token" in line for line in config["setup_commands"])
    assert "0.0.0.0/0" not in text and "AKIA" not in text and "BEGIN" not in text


def test_machines_are_closed_and_forget() -> None:
    kinds = load(AWS)["available_node_types"]
    for kind in kinds.values():
        machine = kind["node_config"]
        assert machine["MetadataOptions"] == {"HttpTokens": "required"}
        assert machine["BlockDeviceMappings"][0]["Ebs"]["Encrypted"] is True
        assert machine["ImageId"].startswith("ami-") and machine["SecurityGroupIds"]
    assert kinds["gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert kinds["gpu"]["min_workers"] == 0 and "GPU" not in kinds["head"]["resources"]
    assert load(AWS)["provider"]["cache_stopped_nodes"] is False
    assert load(AWS)["idle_timeout_minutes"] <= 10
    config = load(AWS)
    config["available_node_types"]["gpu"]["node_config"]["InstanceTyp"] = "g4dn.xlarge"
    with pytest.raises(ValueError, match="InstanceTyp"):
        validate(config)


# -- moto: what an account would hold after `ray up` -----------------------------------------------


@pytest.fixture(scope="module")
def bootstrapped(patch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """An AWS account after aws_setup.py; cluster.yaml as `ray up` has it before the head starts."""
    for name, value in ENVIRONMENT.items():
        patch.setenv(name, value)
    for name in ("AWS_CA_BUNDLE", "AWS_ENDPOINT_URL"):
        patch.delenv(name, raising=False)
    patch.setattr(ray_aws.time, "sleep", lambda seconds: None)  # 15 s for a profile to spread
    with mock_aws():
        assert aws_setup.main("kdtune-test", f"{HOME}/32") == 0
        (group,) = groups()
        config = load(AWS)
        config.pop("file_mounts")
        for kind in config["available_node_types"].values():
            kind["node_config"]["SecurityGroupIds"] = [group["GroupId"]]
        yield AWSNodeProvider.bootstrap_config(validate(config))


def groups() -> list[dict[str, Any]]:
    """Security groups beside the one of each VPC."""
    groups = boto3.client("ec2").describe_security_groups()["SecurityGroups"]
    return [group for group in groups if group["GroupName"] != "default"]


def open_to(group: dict[str, Any]) -> list[tuple[str, int | None, str]]:
    """(protocol, port, from where) of each rule; members of the group itself left out."""
    return [
        (rule["IpProtocol"], rule.get("FromPort"), place["CidrIp"])
        for rule in group["IpPermissions"]
        for place in rule["IpRanges"]
    ]


def test_the_head_may_do_what_it_does_and_no_more(bootstrapped: dict[str, Any]) -> None:
    """Start and stop a spot machine as the autoscaler on the head does, and note the API calls."""
    called: set[str] = set()
    provider = AWSNodeProvider(bootstrapped["provider"], bootstrapped["cluster_name"])
    for client in (provider.ec2, provider.ec2_fail_fast):
        client.meta.client.meta.events.register(
            "before-call.ec2", lambda model, **_: called.add(f"ec2:{model.name}")
        )
    provider.create_node(
        bootstrapped["available_node_types"]["gpu"]["node_config"],
        {
            tags.TAG_RAY_NODE_KIND: "worker",
            tags.TAG_RAY_USER_NODE_TYPE: "gpu",
            tags.TAG_RAY_NODE_NAME: "gpu",
            tags.TAG_RAY_NODE_STATUS: "uninitialized",
        },
        1,
    )
    (node,) = provider.non_terminated_nodes({})
    provider.set_node_tags(node, {tags.TAG_RAY_NODE_STATUS: "up-to-date"})
    (machine,) = boto3.client("ec2").describe_instances()["Reservations"][0]["Instances"]
    assert machine["InstanceLifecycle"] == "spot"
    assert [group["GroupName"] for group in machine["SecurityGroups"]] == ["kdtune"]
    assert machine["IamInstanceProfile"]["Arn"].endswith("instance-profile/kdtune-worker")
    while "ec2:CreateTags" not in called:  # by a thread of the provider's, a second later
        time.sleep(0.1)
    provider.terminate_nodes([node])
    assert provider.non_terminated_nodes({}) == []

    iam = boto3.client("iam")
    allowed = {}
    for role in ("kdtune-head", "kdtune-worker"):
        document = iam.get_role_policy(RoleName=role, PolicyName="kdtune")["PolicyDocument"]
        allowed[role] = {a for s in document["Statement"] for a in s["Action"]}
        assert iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"] == []
    assert {"ec2:RunInstances", "ec2:TerminateInstances"} <= called <= allowed["kdtune-head"]
    assert not any("*" in a for actions in allowed.values() for a in actions)
    assert not any(a.startswith(("ec2", "iam")) for a in allowed["kdtune-worker"])
    assert {role["RoleName"] for role in iam.list_roles()["Roles"]} == set(allowed)


@pytest.mark.usefixtures("bootstrapped")
def test_setup_again_changes_nothing_but_the_address_that_it_lets_in() -> None:
    before = groups()
    assert open_to(before[0]) == [("tcp", 22, f"{HOME}/32")]  # nothing is open to the world
    assert aws_setup.main("kdtune-test", f"{HOME}/32") == 0
    assert groups() == before
    assert aws_setup.main("kdtune-test", "198.51.100.0/24") == 0
    (group,) = groups()
    assert open_to(group) == [("tcp", 22, "198.51.100.0/24")]
    pairs = [pair for rule in group["IpPermissions"] for pair in rule["UserIdGroupPairs"]]
    assert [pair["GroupId"] for pair in pairs] == [group["GroupId"]]


@pytest.mark.parametrize("address", ["home", "0.0.0.0/0"])
def test_setup_lets_a_network_of_the_user_in_alone(address: str) -> None:
    with pytest.raises(ArgumentTypeError, match=f"as 203.0.113.0/24, but got {address}$"):
        aws_setup.network(address)


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="needs shellcheck")
def test_shellcheck() -> None:
    files = [ROOT / "experiments" / "slurm.sh", ROOT / "tests" / "host_init.sh"]
    subprocess.run(["shellcheck", *files], check=True)


def test_kuberay_accepts_the_job_and_refuses_a_spoilt_one() -> None:
    job = load(RAYJOB)
    schema = json.loads((ROOT / "tests" / "data" / "kuberay_rayjob.json").read_text())
    jsonschema.validate(job, schema)
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert f"--gpus {group['replicas']}" in job["spec"]["entrypoint"]
    job["spec"]["backOffLimit"] = 2
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, schema)
