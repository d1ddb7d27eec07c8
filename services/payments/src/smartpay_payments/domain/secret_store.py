"""Where secrets are kept: written once under a name, read by the service alone."""

from __future__ import annotations

from typing import Protocol


class SecretStore(Protocol):
    """Keeps secrets by name. Values never reach a log, an error or an answer.

    A name has 1 to 200 characters of letters, digits and /_-, no empty part and no dot.
    """

    async def put(self, name: str, value: str) -> None:
        """Keeps a secret durably; replaces the one of that name.

        Raises:
            Refusal: UNAVAILABLE when the store can't be asked now.
        """
        ...

    async def get(self, name: str) -> str | None:
        """Reads a secret; None when there is none of that name.

        Raises:
            Refusal: UNAVAILABLE when the store can't be asked now.
        """
        ...

    async def delete(self, name: str) -> None:
        """Removes a secret; does nothing when there is none of that name.

        Raises:
            Refusal: UNAVAILABLE when the store can't be asked now.
        """
        ...
