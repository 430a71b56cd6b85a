"""cluster.yaml through `ray up`, on moto's AWS with a simulated host for each instance."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from drivers import wait_until
from hosts import Hosts, call
from lab import ON_HOSTS, ROOT, Cluster, check_faults, ended, search

URL = "http://10.77.0.2:5000"
ENVIRONMENT = f"""
export AWS_ENDPOINT_URL={URL} AWS_ACCESS_KEY_ID=testing AWS_SECRET_ACCESS_KEY=testing
export AWS_DEFAULT_REGION=us-west-2 AWS_EC2_METADATA_DISABLED=true
unset AWS_CA_BUNDLE
"""
"""For every ~/.bashrc: what an instance profile gives on Amazon's machines."""
WATCH = """
import boto3, json, time
from botocore.exceptions import BotoCoreError
ec2 = boto3.client("ec2")

def live():
    for reservation in ec2.describe_instances()["Reservations"]:
        for i in reservation["Instances"]:
            if i["State"]["Name"] == "running":
                keys = ec2.describe_key_pairs(KeyNames=[i["KeyName"]], IncludePublicKey=True)
                tags = {tag["Key"]: tag["Value"] for tag in i.get("Tags", [])}
                yield {
                    "id": i["InstanceId"], "kind": tags.get("ray-user-node-type"),
                    "addresses": [i["PrivateIpAddress"], i["PublicIpAddress"]],
                    "key": keys["KeyPairs"][0]["PublicKey"],
                }

while True:
    try:
        print(json.dumps(list(live())), flush=True)
    except BotoCoreError:
        pass  # not up yet, or frozen: no news
    time.sleep(0.5)
"""
"""What says which instances run, a line each half second."""
pytestmark = ON_HOSTS
HOSTS = {"count": 4, "bashrc": ENVIRONMENT}
RUNS = "s3://kdtune-runs/runs"


class FakeEC2:
    """Gives each running instance one of the hosts, until `stop`; `ctl` runs moto."""

    def __init__(self, hosts: Hosts):
        self.hosts = hosts
        self.given: dict[str, str] = {}
        """Host by instance id."""
        self.kinds: dict[str, str | None] = {}
        """Kind of each instance that runs, by its id."""
        self.free = [name for name in hosts.addresses if name != "ctl"]
        self._moto = hosts.start(
            "ctl",
            "MOTO_IAM_LOAD_MANAGED_POLICIES=true python -m moto.server -H 10.77.0.2 -p 5000",
            hosts.folder / "moto.log",
        )
        hosts.run("ctl", f"until curl -s -o /dev/null {URL}; do sleep 0.2; done")
        # every address is on the machines' own bridge
        call("ip", "-n", "kdt-ctl", "route", "replace", "default", "dev", "eth0")
        script = f'{ENVIRONMENT} exec "$0" -c "$1"'
        words = ["ip", "netns", "exec", "kdt-ctl", "bash", "-c", script, sys.executable, WATCH]
        self._watch = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self._follow, daemon=True).start()

    def stop(self) -> None:
        for process in (self._watch, self._moto):
            process.kill()
            process.wait()

    def _follow(self) -> None:
        assert self._watch.stdout is not None
        for line in self._watch.stdout:
            live = {instance["id"]: instance for instance in json.loads(line)}
            self.kinds = {id: instance["kind"] for id, instance in live.items()}
            for gone in [i for i in self.given if i not in live]:
                self._take_back(gone)
            for instance in live.values():
                if instance["id"] not in self.given and self.free:
                    self._give(instance)

    def _give(self, instance: dict[str, Any]) -> None:
        name = self.given[instance["id"]] = self.free.pop(0)
        space, (own, public) = f"kdt-{name}", instance["addresses"]
        call("ip", "-n", space, "addr", "flush", "dev", "eth0")
        for address in (own, public):
            call("ip", "-n", space, "addr", "add", f"{address}/32", "dev", "eth0")
        call("ip", "-n", space, "route", "replace", "default", "dev", "eth0", "src", own)
        self.hosts.run(name, f"printf '127.0.0.1 localhost\\n{own} {name}\\n' >/etc/hosts")
        self.hosts.run(name, f"echo '{instance['key']}' >>~/.ssh/authorized_keys")

    def _take_back(self, instance: str) -> None:
        name = self.given.pop(instance)
        self.hosts.off(name)
        self.hosts.wipe(name)
        space = f"kdt-{name}"
        call("ip", "-n", space, "addr", "flush", "dev", "eth0")
        call("ip", "-n", space, "addr", "add", f"{self.hosts.addresses[name]}/24", "dev", "eth0")
        self.hosts.on(name)
        self.free.append(name)


class Account:
    """The account of a cluster's user."""

    def __init__(self, cluster: Cluster, ec2: FakeEC2):
        self.cluster, self.ec2 = cluster, ec2

    def ask(self, expression: str) -> Any:
        """What boto3 says on the user's computer, as JSON."""
        code = (
            "import boto3, json; ec2, iam, s3 = map(boto3.client, ('ec2', 'iam', 's3')); "
            f"print(json.dumps({expression}, default=str))"
        )
        return json.loads(self.cluster.user(f'python -c "{code}"').splitlines()[-1])

    def workers(self) -> list[str]:
        return [id for id, kind in self.ec2.kinds.items() if kind == "gpu"]

    def freeze(self, seconds: float) -> None:
        """Amazon is silent for so long."""
        stop, go = (f"pkill -{signal} -f 'moto[.]server'" for signal in ("STOP", "CONT"))
        self.cluster.hosts.run("ctl", f"{stop}; sleep {seconds}; {go}")

    def groups(self) -> list[Any]:
        """Security groups beside the default one."""
        groups = self.ask("ec2.describe_security_groups()['SecurityGroups']")
        return [group for group in groups if group["GroupName"] != "default"]


def two_machines_run(said: str) -> bool:
    """Whether a run has ended beside a machine that has joined, or two that began together."""
    return said.count("val acc") >= (1 if "has joined" in said else 2)


@pytest.fixture(scope="module")
def account(begun: Any, hosts: Hosts, request: pytest.FixtureRequest) -> Account:
    """cluster.yaml, up, with what the user is told to change: the head and no worker."""
    ec2 = FakeEC2(hosts)
    request.addfinalizer(ec2.stop)
    cluster = Cluster(hosts, ENVIRONMENT)
    said = cluster.user("python experiments/aws_setup.py kdtune-runs 10.77.0.2")
    group = said.split("[")[1].split("]")[0]
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    config["max_workers"] = 2
    config["auth"]["ssh_user"] = "root"  # these machines have no other
    kinds = config["available_node_types"]
    for kind in kinds.values():
        kind["node_config"] |= {"SecurityGroupIds": [group], "ImageId": "ami-12c6146b"}
    kinds["gpu"] |= {"resources": {"CPU": 1, "GPU": 1}, "max_workers": 2}
    cluster.up(config)
    return Account(cluster, ec2)


def test_spot_machines_come_for_the_study_amazon_is_silent_and_one_is_taken(
    account: Account, alone: pd.DataFrame, tmp_path: Path
) -> None:
    cluster = account.cluster
    assert account.workers() == []
    log = tmp_path / "log"
    driver = cluster.begin(search("spot", "--gpus 2", out=RUNS), log)
    wait_until(lambda: len(account.workers()) == 2, 400)
    wait_until(lambda: two_machines_run(log.read_text(errors="replace")))
    # as early as can be: a study that ends within seconds of the loss does not hear of it
    taken = account.workers()[0]
    account.ask(f"ec2.terminate_instances(InstanceIds=['{taken}'])")
    wait_until(lambda: taken not in account.workers())
    account.freeze(10)
    said = ended(driver, log)
    assert said.count("was lost; its runs resume from their last checkpoint on other machines") == 1
    assert "has joined" in said
    cluster.user(
        f'PYTHONPATH=$PWD python -c "import kdtune, shutil; '
        f"shutil.copytree(kdtune.load('{RUNS}/spot').folder, '/mnt/shared/spot')\""
    )
    check_faults(cluster.hosts.shared / "spot", alone, most=1)


def test_nothing_is_open_and_only_what_the_readme_says_is_left(account: Account) -> None:
    (group,) = account.groups()
    ranges = [r for rule in group["IpPermissions"] for r in rule["IpRanges"]]
    assert ranges == [{"CidrIp": "10.77.0.2/32"}]
    account.cluster.user("ray down cluster.yaml -y")
    wait_until(lambda: account.ec2.kinds == {}, 60)
    assert [group["GroupName"] for group in account.groups()] == ["kdtune"]
    roles = account.ask("[r['RoleName'] for r in iam.list_roles()['Roles']]")
    assert sorted(roles) == ["kdtune-head", "kdtune-worker"]
    assert account.ask("[b['Name'] for b in s3.list_buckets()['Buckets']]") == ["kdtune-runs"]
    (key,) = account.ask("ec2.describe_key_pairs()['KeyPairs']")
    assert key["KeyName"].startswith("ray-autoscaler")
