"""Secrets as files that only the service's own user can read; for development."""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
from pathlib import Path

NAME = re.compile(r"[A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+)*")
NAME_LETTERS_MAX = 200


class SecretFiles:
    """The port `SecretStore` over a folder: 0700, its files 0600.

    Args:
        folder: where; made when it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def put(self, name: str, value: str) -> None:
        """Keeps a secret; on disk when it answers."""
        await asyncio.to_thread(self._put, self._file(name), value)

    async def get(self, name: str) -> str | None:
        """Reads a secret."""
        return await asyncio.to_thread(_text_of, self._file(name))

    async def delete(self, name: str) -> None:
        """Removes a secret."""
        await asyncio.to_thread(self._file(name).unlink, missing_ok=True)

    def _file(self, name: str) -> Path:
        check_name(name)
        return self._folder.joinpath(*name.split("/")).with_suffix(".secret")

    def _put(self, file: Path, value: str) -> None:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # mkstemp makes it 0600, so that nobody else could read it even for a moment.
        handle, temporary = tempfile.mkstemp(dir=file.parent)
        try:
            with os.fdopen(handle, "w") as written:
                written.write(value)
                written.flush()
                os.fsync(written.fileno())
            os.replace(temporary, file)
        except BaseException:
            os.unlink(temporary)
            raise
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def check_name(name: str) -> None:
    """Raises ValueError for a name that could lead elsewhere; the value is not in the text."""
    if len(name) > NAME_LETTERS_MAX or not NAME.fullmatch(name):
        raise ValueError("a secret's name has parts of letters, digits, _ and - between slashes")


def _text_of(file: Path) -> str | None:
    try:
        return file.read_text()
    except FileNotFoundError:
        return None
