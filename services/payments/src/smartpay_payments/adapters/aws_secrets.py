"""Secrets in AWS Secrets Manager; for production.

https://docs.aws.amazon.com/secretsmanager/latest/apireference/
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import structlog

from smartpay_chassis.refusals import Kind, Refusal
from smartpay_payments.adapters.secret_files import check_name

log = structlog.get_logger()

T = TypeVar("T")

THREADS = 4  # account changes are rare; loading at the start takes a few at once
CALL_SECONDS = 3.0  # two tries fit into the 10 s of an account's change


class AwsSecrets:
    """The port `SecretStore` over Secrets Manager, by boto3 in threads of its own.

    Args:
        client: boto3's client of "secretsmanager"; see `connect`.
        prefix: goes before every name, for instance "smartpay/prod".
    """

    def __init__(self, client: Any, prefix: str) -> None:  # noqa: ANN401 - boto3 has no types
        self._client = client
        self._prefix = prefix.strip("/")
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="secrets")

    @classmethod
    def connect(
        cls,
        prefix: str,
        region: str = "",
        **options: Any,  # noqa: ANN401 - boto3's own
    ) -> AwsSecrets:
        """Makes the client with the pod's own role.

        Args:
            prefix: goes before every name.
            region: where Secrets Manager is asked; "" leaves it to boto3's own configuration.
            options: further ones of boto3, for tests.
        """
        # Only where secrets live in AWS.
        import boto3
        from botocore.config import Config

        config = Config(  # type: ignore[no-untyped-call]
            connect_timeout=CALL_SECONDS,
            read_timeout=CALL_SECONDS,
            retries={"total_max_attempts": 2, "mode": "standard"},
        )
        client = boto3.client(  # type: ignore[no-untyped-call]
            "secretsmanager", config=config, region_name=region or None, **options
        )
        return cls(client, prefix)

    async def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown()
        self._client.close()

    async def put(self, name: str, value: str) -> None:
        """Keeps a secret."""
        secret = self._name(name)

        def work() -> None:
            errors = self._client.exceptions
            try:
                self._client.put_secret_value(SecretId=secret, SecretString=value)
            except errors.ResourceNotFoundException:
                try:
                    self._client.create_secret(Name=secret, SecretString=value)
                except errors.ResourceExistsException:
                    # Another replica was faster.
                    self._client.put_secret_value(SecretId=secret, SecretString=value)

        await self._run(work)

    async def get(self, name: str) -> str | None:
        """Reads a secret."""
        secret = self._name(name)

        def work() -> str | None:
            try:
                return str(self._client.get_secret_value(SecretId=secret)["SecretString"])
            except self._client.exceptions.ResourceNotFoundException:
                return None

        return await self._run(work)

    async def delete(self, name: str) -> None:
        """Removes a secret at once: an old credential is of no use to anybody."""
        secret = self._name(name)

        def work() -> None:
            try:
                self._client.delete_secret(SecretId=secret, ForceDeleteWithoutRecovery=True)
            except self._client.exceptions.ResourceNotFoundException:
                return

        await self._run(work)

    def _name(self, name: str) -> str:
        check_name(name)
        return f"{self._prefix}/{name}"

    async def _run(self, work: Callable[[], T]) -> T:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except (BotoCoreError, ClientError) as error:
            # The error's own text may hold the request.
            log.error("the secret store can't be asked", error=type(error).__name__)
        raise Refusal(
            Kind.UNAVAILABLE,
            "UNAVAILABLE",
            "The store of secrets can't be asked now.",
            remedy="Wait a moment and repeat the call with the same idempotency key.",
        )
