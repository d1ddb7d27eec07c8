"""The user pool: one resource server, one app client per caller, one group per merchant.

Calls are those of Amazon Cognito user pools; docs.aws.amazon.com/cognito-user-identity-pools.
"""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from smartpay_sandbox.ministack import REGION
from smartpay_sandbox.run_folder import RunFolder, read_json, write_whole

POOL = "smartpay-dev"
TOKEN_SECONDS = 10.0  # a loopback emulator that needs longer is stuck
NO_CREDENTIALS = "development"  # ministack takes any; real ones must never be sent to it


class TokenError(Exception):
    """No token can be had; the text says why and what to do."""


@dataclass(frozen=True)
class Client:
    """One app client for the client_credentials grant."""

    client_id: str
    client_secret: str
    scopes: tuple[str, ...]


@dataclass(frozen=True)
class UserPool:
    """The pool with what is in it.

    Attributes:
        pool_id: Cognito's id, for instance us-east-1_abc.
        clients: app clients by our names.
    """

    pool_id: str
    clients: Mapping[str, Client]

    @property
    def issuer(self) -> str:
        """What the tokens say in iss, exactly."""
        return f"https://cognito-idp.{REGION}.amazonaws.com/{self.pool_id}"

    @property
    def jwks_path(self) -> str:
        """Path of the key set on the emulator."""
        return f"/{self.pool_id}/.well-known/jwks.json"

    def save(self, run: RunFolder) -> None:
        """Writes the pool with its secrets for this user alone."""
        write_whole(run.clients, json.dumps(asdict(self), indent=1), mode=0o600)

    @staticmethod
    def load(run: RunFolder) -> UserPool | None:
        """Reads the pool of last time; None when there was none."""
        saved = read_json(run.clients)
        if saved is None:
            return None
        clients = {
            name: Client(c["client_id"], c["client_secret"], tuple(c["scopes"]))
            for name, c in saved["clients"].items()
        }
        return UserPool(saved["pool_id"], clients)


def provision(
    url: str,
    *,
    resource_server: str,
    scopes: Sequence[str],
    clients: Mapping[str, Sequence[str]],
    groups: Sequence[str],
) -> UserPool:
    """Makes what is missing and answers the pool; a second run changes nothing.

    Args:
        url: the emulator's base URL.
        resource_server: prefix of the scopes.
        scopes: all scopes, without the prefix.
        clients: app clients, each with its scopes without the prefix.
        groups: groups for people.
    """
    import boto3  # a second of start-up that only a first start pays

    cognito: Any = boto3.client(  # type: ignore[no-untyped-call]
        "cognito-idp",
        endpoint_url=url,
        region_name=REGION,
        aws_access_key_id=NO_CREDENTIALS,
        aws_secret_access_key=NO_CREDENTIALS,
    )
    pools = cognito.list_user_pools(MaxResults=60)["UserPools"]
    pool_id = next((p["Id"] for p in pools if p["Name"] == POOL), None)
    if pool_id is None:
        pool_id = cognito.create_user_pool(PoolName=POOL)["UserPool"]["Id"]
    servers = cognito.list_resource_servers(UserPoolId=pool_id, MaxResults=50)["ResourceServers"]
    if resource_server not in {server["Identifier"] for server in servers}:
        cognito.create_resource_server(
            UserPoolId=pool_id,
            Identifier=resource_server,
            Name=resource_server,
            Scopes=[{"ScopeName": scope, "ScopeDescription": scope} for scope in scopes],
        )
    known = cognito.list_groups(UserPoolId=pool_id, Limit=60)["Groups"]
    for group in set(groups) - {g["GroupName"] for g in known}:
        cognito.create_group(UserPoolId=pool_id, GroupName=group)
    listed = cognito.list_user_pool_clients(UserPoolId=pool_id, MaxResults=60)["UserPoolClients"]
    ids = {client["ClientName"]: client["ClientId"] for client in listed}
    return UserPool(
        pool_id,
        {
            name: _client(cognito, pool_id, name, ids.get(name), resource_server, allowed)
            for name, allowed in clients.items()
        },
    )


def _client(
    cognito: Any,  # noqa: ANN401 - boto3 makes its clients' classes at run time
    pool_id: str,
    name: str,
    client_id: str | None,
    resource_server: str,
    scopes: Sequence[str],
) -> Client:
    full = tuple(f"{resource_server}/{scope}" for scope in scopes)
    if client_id is None:
        made = cognito.create_user_pool_client(
            UserPoolId=pool_id,
            ClientName=name,
            GenerateSecret=True,
            AllowedOAuthFlows=["client_credentials"],
            AllowedOAuthFlowsUserPoolClient=True,
            AllowedOAuthScopes=list(full),
        )
    else:
        made = cognito.describe_user_pool_client(UserPoolId=pool_id, ClientId=client_id)
    found = made["UserPoolClient"]
    return Client(found["ClientId"], found["ClientSecret"], full)


def fetch_token(url: str, client: Client, scopes: Sequence[str] | None = None) -> str:
    """Gets an access token by client_credentials; RFC 6749 section 4.4.

    Args:
        url: the emulator's base URL.
        client: who asks.
        scopes: fewer scopes than the client may have; all of them when None.

    Raises:
        TokenError: when the issuer can't be reached or refuses.
    """
    form = {"grant_type": "client_credentials", "scope": " ".join(scopes or client.scopes)}
    secret = base64.b64encode(f"{client.client_id}:{client.client_secret}".encode()).decode()
    request = urllib.request.Request(
        f"{url}/oauth2/token",
        data=urllib.parse.urlencode(form).encode(),
        headers={
            "Authorization": f"Basic {secret}",
            "Content-Type": "application/x-www-form-urlencoded",
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=TOKEN_SECONDS) as response:
            return str(json.load(response)["access_token"])
    except urllib.error.HTTPError as error:
        raise TokenError(f"Cognito refused the client: {error.read(500).decode()}") from None
    except OSError as error:
        raise TokenError(f"Cognito does not answer at {url} ({error}); run `make up`.") from None
