"""Create what cluster.yaml needs on AWS: a bucket, two roles, a security group.

python experiments/aws_setup.py BUCKET ADDRESS      # e.g. my-kdtune 203.0.113.7

The role kdtune-head may start and stop machines of clusters named kdtune*. It and kdtune-worker may
read and write the bucket, and nothing else. The security group allows ssh from ADDRESS, and all
traffic between its members. (The role and group that Ray creates by default give the head full
access to EC2 and S3, and let everyone reach port 22, even beside rules of cluster.yaml.)

Run again with another address, the command replaces the address and updates the policies; it
leaves everything else as it is.
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
    """Return a statement of a policy."""
    statement = {"Effect": "Allow", "Action": actions, "Resource": list(resources)}
    return statement | ({"Condition": condition} if condition else {})


def policies(bucket: str, account: str) -> dict[str, list[dict[str, Any]]]:
    """Return the policy statements of each role."""
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
    """Return an IPv4 address or a network of at most 2^24 addresses as AWS writes it (CIDR)."""
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
    """Create everything and print what goes into cluster.yaml; return the exit code."""
    _make_bucket(bucket)
    account = boto3.client("sts").get_caller_identity()["Account"]
    for name, statements in policies(bucket, account).items():
        _make_role(name, json.dumps({"Version": "2012-10-17", "Statement": statements}))
    group = _make_group(address)
    print(f"SecurityGroupIds: [{group}]  # in cluster.yaml; ssh from {address} only")
    print(f"--out s3://{bucket}/runs     # to kdtune.search")
    return 0


def _make_bucket(bucket: str) -> None:
    """Create a bucket without public access, in the region of the credentials."""
    s3 = boto3.client("s3")
    region = s3.meta.region_name
    # us-east-1 is the only region that must not be named
    place = {"CreateBucketConfiguration": {"LocationConstraint": region}}
    _ignore_existing(
        lambda: s3.create_bucket(Bucket=bucket, **({} if region == "us-east-1" else place))
    )
    closed = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
    s3.put_public_access_block(
        Bucket=bucket, PublicAccessBlockConfiguration=dict.fromkeys(closed, True)
    )


def _make_role(name: str, policy: str) -> None:
    """Create a role with this policy, and an instance profile of the same name."""
    iam, assume = boto3.client("iam"), json.dumps(ASSUME)
    _ignore_existing(lambda: iam.create_role(RoleName=name, AssumeRolePolicyDocument=assume))
    iam.put_role_policy(RoleName=name, PolicyName="kdtune", PolicyDocument=policy)
    _ignore_existing(lambda: iam.create_instance_profile(InstanceProfileName=name))
    _ignore_existing(
        lambda: iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    )


def _make_group(address: str) -> str:
    """Create or update the security group kdtune in the default VPC; return its id."""
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


def _ignore_existing(make: Any) -> None:
    """Call a function, but ignore its error if what it creates exists."""
    there = ("EntityAlreadyExists", "BucketAlreadyOwnedByYou", "LimitExceeded")
    try:
        make()
    except Exception as error:  # boto3 creates its exception classes at run time
        code = getattr(error, "response", {}).get("Error", {}).get("Code")
        if code not in there:
            raise


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bucket", help="bucket for results; created if it does not exist")
    parser.add_argument(
        "address", type=network, help="your IPv4 address, from which ssh is allowed"
    )
    flags = parser.parse_args()
    try:
        sys.exit(main(flags.bucket, flags.address))
    except (BotoCoreError, ClientError) as error:
        sys.exit(f"AWS refused the request: {error}")
