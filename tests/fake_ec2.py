"""Machines for the instances that moto only writes down: its EC2 becomes one that works.

moto, on the user's computer, is the API of EC2, IAM and S3; a machine of namespaces (hosts.py)
waits for each instance, takes its addresses and its key, and goes when it is terminated.
"""

import json
import subprocess
import sys
import threading
from typing import Any

from hosts import Hosts, call

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
                yield {
                    "id": i["InstanceId"], "type": i["InstanceType"],
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
ANSWERS = """
import socket, time
until = time.monotonic() + 120
while socket.socket().connect_ex(("10.77.0.2", 5000)):
    assert time.monotonic() < until
    time.sleep(0.2)
"""


class FakeEC2:
    """Gives each running instance one of the hosts, until `stop`.

    Args:
        hosts: made with `ENVIRONMENT` in every ~/.bashrc; `ctl` runs moto.
    """

    def __init__(self, hosts: Hosts):
        self.hosts = hosts
        self.given: dict[str, str] = {}
        """Host by instance id."""
        self.free = [name for name in hosts.addresses if name != "ctl"]
        self._moto = hosts.start(
            "ctl",
            "MOTO_IAM_LOAD_MANAGED_POLICIES=true python -m moto.server -H 10.77.0.2 -p 5000",
            hosts.folder / "moto.log",
        )
        hosts.run("ctl", f"python -c '{ANSWERS}'", 130)
        # every address is on the machines' own bridge
        call("ip", "-n", "kdt-ctl", "route", "replace", "default", "dev", "eth0")
        inside = ["ip", "netns", "exec", "kdt-ctl", "bash", "-c", 'eval "$1"; exec "$2" -c "$3"']
        self._watch = subprocess.Popen(
            [*inside, "bash", ENVIRONMENT, sys.executable, WATCH],
            stdout=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._follow, daemon=True).start()

    def stop(self) -> None:
        """No more machines come or go."""
        for process in (self._watch, self._moto):
            process.kill()
            process.wait()

    def _follow(self) -> None:
        assert self._watch.stdout is not None
        for line in self._watch.stdout:
            live = {instance["id"]: instance for instance in json.loads(line)}
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
        """The machine is no more; one that is new stands for it in the pool."""
        name = self.given.pop(instance)
        self.hosts.off(name)
        self.hosts.wipe(name)
        space = f"kdt-{name}"
        call("ip", "-n", space, "addr", "flush", "dev", "eth0")
        call("ip", "-n", space, "addr", "add", f"{self.hosts.addresses[name]}/24", "dev", "eth0")
        self.hosts.on(name)
        self.free.append(name)
