"""Make what cluster.yaml needs on AWS: a bucket, two roles, a security group.

python experiments/aws_setup.py BUCKET ADDRESS      # e.g. my-kdtune 203.0.113.7

kdtune-head starts and stops machines of clusters named kdtune*; it and kdtune-worker read and write
the bucket, and nothing else. The group lets ssh in from ADDRESS, and its members to each other.
(What Ray makes of its own gives the head all of EC2 and S3, and opens ssh to the world, also beside
rules that a cluster.yaml gives.) Given again with another address it lets that one in instead; the
policies are renewed, what else is there is left.
"""

import argparse
import json
import sys
from ipaddress import IPv4Network
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

ASSUME = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": "ec2.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
    ],
}


def allow(actions: list[str], *resources: str, **condition: Any) -> dict[str, Any]:
    """A statement of a policy."""
    statement = {"Effect": "Allow", "Action": actions, "Resource": list(resources)}
    return statement | ({"Condition": condition} if condition else {})


def policies(bucket: str, account: str) -> dict[str, list[dict[str, Any]]]:
    """What each role may do."""
    there = f"arn:aws:s3:::{bucket}"
    results = [
        allow(["s3:ListBucket", "s3:GetBucketLocation"], there),
        allow(["s3:GetObject", "s3:PutObject", "s3:DeleteObject"], f"{there}/*"),
        allow(["s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"], f"{there}/*"),
    ]
    own = {"aws:ResourceTag/ray-cluster-name": "kdtune*"}
    machines = [
        allow(["ec2:DescribeInstances", "ec2:RunInstances"], "*"),
        allow(["ec2:CreateTags"], "*", StringEquals={"ec2:CreateAction": "RunInstances"}),
        allow(["ec2:CreateTags", "ec2:TerminateInstances"], "*", StringLike=own),
        allow(["iam:PassRole"], f"arn:aws:iam::{account}:role/kdtune-worker"),
    ]
    return {"kdtune-worker": results, "kdtune-head": results + machines}


def network(text: str) -> str:
    """An address, or a network that is not the world, as AWS writes it: 203.0.113.7/32."""
    try:
        given = IPv4Network(text)
    except ValueError:
        given = None
    if given is None or given.prefixlen < 8:
        raise argparse.ArgumentTypeError(
            f"must be your IPv4 address, or a network of yours as 203.0.113.0/24, but got {text}"
        )
    return str(given)


def main(bucket: str, address: str) -> int:
    """Make all of it, and say what goes into cluster.yaml."""
    _make_bucket(bucket)
    account = boto3.client("sts").get_caller_identity()["Account"]
    for name, statements in policies(bucket, account).items():
        _make_role(name, json.dumps({"Version": "2012-10-17", "Statement": statements}))
    group = _make_group(address)
    print(f"SecurityGroupIds: [{group}]  # in cluster.yaml; ssh from {address} only")
    print(f"--out s3://{bucket}/runs     # to kdtune.search")
    return 0


def _make_bucket(bucket: str) -> None:
    """A bucket in the region of the credentials, closed to the public."""
    s3 = boto3.client("s3")
    region = s3.meta.region_name
    # us-east-1 is the one region that must not be named
    place = {"CreateBucketConfiguration": {"LocationConstraint": region}}
    _unless_there(
        lambda: s3.create_bucket(Bucket=bucket, **({} if region == "us-east-1" else place))
    )
    closed = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
    s3.put_public_access_block(
        Bucket=bucket, PublicAccessBlockConfiguration=dict.fromkeys(closed, True)
    )


def _make_role(name: str, policy: str) -> None:
    """A role with this policy, and an instance profile of the same name that has it."""
    iam, assume = boto3.client("iam"), json.dumps(ASSUME)
    _unless_there(lambda: iam.create_role(RoleName=name, AssumeRolePolicyDocument=assume))
    iam.put_role_policy(RoleName=name, PolicyName="kdtune", PolicyDocument=policy)
    _unless_there(lambda: iam.create_instance_profile(InstanceProfileName=name))
    _unless_there(lambda: iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name))


def _make_group(address: str) -> str:
    """The security group kdtune in the default VPC; returns its id."""
    ec2 = boto3.client("ec2")
    (vpc,) = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    own = [
        {"Name": "group-name", "Values": ["kdtune"]},
        {"Name": "vpc-id", "Values": [vpc["VpcId"]]},
    ]
    found = ec2.describe_security_groups(Filters=own)["SecurityGroups"]
    if found:
        group, rules = str(found[0]["GroupId"]), found[0]["IpPermissions"]
    else:
        what = {"GroupName": "kdtune", "Description": "kdtune clusters", "VpcId": vpc["VpcId"]}
        group, rules = str(ec2.create_security_group(**what)["GroupId"]), []
    within = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}
    ssh: dict[str, Any] = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22}
    ssh |= {"IpRanges": [{"CidrIp": address}]}
    old = [criterion for criterion in rules if criterion["IpProtocol"] == "tcp"]
    if [criterion["IpRanges"] for criterion in old] == [ssh["IpRanges"]]:
        return group
    if old:
        ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=old)
    new = [ssh] if found else [within, ssh]
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=new)
    return group


def _unless_there(make: Any) -> None:
    there = ("EntityAlreadyExists", "BucketAlreadyOwnedByYou", "LimitExceeded")
    try:
        make()
    except Exception as error:  # boto3's classes of errors are made at run time
        code = getattr(error, "response", {}).get("Error", {}).get("Code")
        if code not in there:
            raise


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bucket", help="for results; made if it is not there")
    parser.add_argument("address", type=network, help="yours, from which ssh is let in")
    flags = parser.parse_args()
    try:
        sys.exit(main(flags.bucket, flags.address))
    except (BotoCoreError, ClientError) as error:
        sys.exit(f"AWS refuses: {error}")
