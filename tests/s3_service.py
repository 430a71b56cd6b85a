"""A server of moto that simulates S3, in a process of its own, so that a test can suspend it."""

import socket
import subprocess
import sys
import time
from pathlib import Path

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-west-2",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class S3:
    """A running server with the bucket kdtune; its log is written to the folder."""

    def __init__(self, folder: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        with (folder / "moto.log").open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self.make_bucket()

    def make_bucket(self) -> None:
        import boto3
        from botocore.exceptions import EndpointConnectionError

        client = boto3.client("s3", endpoint_url=self.url)
        for _ in range(150):
            try:
                client.create_bucket(
                    Bucket="kdtune", CreateBucketConfiguration={"LocationConstraint": "us-west-2"}
                )
            except EndpointConnectionError:
                time.sleep(0.2)
            else:
                return
        raise AssertionError("moto did not start")
