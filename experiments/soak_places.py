"""The other places of a soak's studies: a store (moto's S3), and hosts that share a folder.

Both are of tests/: s3_service.py, and hosts.py with lab.py, which need root. They are started when
the first study needs them and serve all later ones.
"""

import os
import shutil
import socket
import subprocess
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from hosts import Hosts, why_not
from lab import Cluster, local_config
from s3_service import ENVIRONMENT, S3
from soak_processes import Process, below
from soak_studies import ADAPTIVE, KINDS, Scene

from kdtune.config.study import Study
from kdtune.storage.store import Store

SHARED = "/mnt/shared"
"""Folder that the hosts share, as they see it."""
WORKERS = ("h1", "h2")
"""Hosts that may fail; the driver and the head of the cluster are on h0."""


class Relay:
    """A port that stands for a service, so that the service can go away and come back.

    moto keeps its objects in memory. So the service itself goes on, and its clients lose their
    connections and get no others, as while a service restarts.
    """

    def __init__(self, port: int):
        self._service = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def down(self) -> None:
        """Close all connections, and accept none."""
        for end in (self._server, *self._open):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._open = []

    def up(self) -> None:
        """Accept connections again, at the same port."""
        self._server = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        server = self._server
        with suppress(OSError):  # down
            while True:
                client, _ = server.accept()
                service = socket.create_connection(("127.0.0.1", self._service))
                self._open += [client, service]
                for ends in ((client, service), (service, client)):
                    threading.Thread(target=_pump, args=ends, daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Pass on what arrives, until one of the two is closed."""
    with suppress(OSError):
        while content := source.recv(2**16):
            target.sendall(content)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


class Service:
    """moto's S3 behind a relay."""

    def __init__(self, folder: Path):
        os.environ.update(ENVIRONMENT)
        os.environ.pop("AWS_CA_BUNDLE", None)
        folder.mkdir()
        self.moto = S3(folder)
        self.relay = Relay(int(self.moto.url.rpartition(":")[2]))
        os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{self.relay.port}"

    def close(self) -> None:
        """End the service."""
        self.relay.down()
        self.moto.process.kill()
        self.moto.process.wait()


class OnStore(Scene):
    """A study on a store; its folder is the driver's working folder."""

    place = "s3"

    def __init__(self, kind: str, home: Path, environment: dict[str, str], service: Service):
        self.service = service
        super().__init__(kind, home, environment)

    def make_study(self) -> Study:
        """Return the study at its place."""
        out = f"s3://kdtune/{self.home.name}"
        return replace(KINDS[self.kind], name=self.kind, out=out, cache=str(self.cache))

    def result(self) -> Path:
        """Return a copy of what is on the store, without what each trial has left there."""
        assert self.study.uri is not None
        store, copy = Store(self.study.uri), self.home / "result" / self.kind
        shutil.rmtree(copy, ignore_errors=True)
        names = [name for name in store.names() if not name.startswith("trials/")]
        store.get_all(names, copy)
        return copy


class Lab:
    """A cluster of three hosts: the head h0, and the workers h1 and h2, of one core each."""

    def __init__(self, folder: Path):
        if reason := why_not():
            raise RuntimeError(f"no hosts here: {reason}")
        path = f"export PYTHONPATH={SHARED}/checkout/tests\n"
        self.hosts = Hosts(folder, 1 + len(WORKERS), path)
        try:
            cluster = Cluster(self.hosts)
            cluster.up(local_config(self.hosts))
        except BaseException:
            self.hosts.down()
            raise

    def close(self) -> None:
        """Power all hosts off."""
        self.hosts.down()


class OnHosts(Scene):
    """A study on a cluster, in a folder that its hosts share."""

    place = "hosts"

    def __init__(self, kind: str, home: Path, environment: dict[str, str], lab: Lab):
        self.lab = lab
        self._shared = lab.hosts.shared / "soak" / home.name
        self._shared.mkdir(parents=True)
        super().__init__(kind, home, environment)
        shutil.copy(self.file, self._shared)

    def make_study(self) -> Study:
        """Return the study at its place; one GPU lets one trial run at a time."""
        out = f"{SHARED}/soak/{self.home.name}/runs"
        study = replace(KINDS[self.kind], name=self.kind, out=out, address="auto")
        return replace(study, gpus=1) if self.kind in ADAPTIVE else study

    @property
    def folder(self) -> Path:
        """The study's folder, as this machine sees it."""
        return self._shared / "runs" / self.kind

    def start(self, log: Path, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
        """Start the study's command on the head."""
        file = f"{SHARED}/soak/{self.home.name}/{self.file.name}"
        own = ". ~/.bashrc; export TERM=dumb RAY_AUTH_MODE=token"
        return self.lab.hosts.start("h0", f"{own}; exec python -m kdtune.search {file}", log)

    @property
    def driver_pid(self) -> int:
        """The driver's process, as this machine counts."""
        own = super().driver_pid
        return next((p.pid for p in below(own) if "kdtune.search" in p.command), own)

    def leftovers(self) -> list[Process]:
        """Return nothing: the cluster's Ray outlives the driver."""
        return []

    def close(self) -> None:
        """Free what the study holds; keep its records and logs."""
        if self.folder.exists():
            ignored = shutil.ignore_patterns("tune")
            shutil.copytree(self.folder, self.home / "runs-kept" / self.kind, ignore=ignored)
        shutil.rmtree(self._shared)
        super().close()


def is_there(place: str) -> bool:
    """Return whether studies can be at this place on this machine."""
    return place != "hosts" or why_not() is None
