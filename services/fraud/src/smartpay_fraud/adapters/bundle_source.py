"""Where bundles come from: a folder, or one packed file in S3. Nothing is ever unpacked to disk."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

MANIFEST = "manifest.json"

FILE_BYTES_MAX = {
    MANIFEST: 1_000_000,
    "model.onnx": 32_000_000,
    "model.ubj": 32_000_000,
    "trees.npz": 16_000_000,
    "sage.safetensors": 4_000_000,
    "golden.npz": 16_000_000,
    "drift.npz": 4_000_000,
}
"""The files of a bundle and the most each may hold: twenty times what training writes today."""

BUNDLE_BYTES_MAX = sum(FILE_BYTES_MAX.values())
PACKED_BYTES_MAX = 64_000_000
"""A packed bundle as it is downloaded."""

_MEMBERS_MAX = 64  # model cards and folders may lie beside the files; an archive of more is none
_CONNECT_SECONDS, _READ_SECONDS = 2, 20


class BundleError(Exception):
    """The bundle must not serve; the text names what is wrong and what to do."""


class BundleSource(Protocol):
    """A place that a bundle can be read from again and again. Both methods block."""

    def fingerprint(self) -> str:
        """Changes whenever what `read` would answer changes; cheap enough to ask every second."""
        ...

    def read(self) -> dict[str, bytes]:
        """The bundle's files by name; raises BundleError for what can't be a bundle."""
        ...


def source_of(uri: str, setting: str = "FRAUD_MODEL_URI", region: str = "") -> BundleSource:
    """Finds a bundle: "" is the packaged one, else a path, file:// or s3://bucket/key.tar.gz.

    Args:
        uri: where it is.
        setting: whose value it is, for refusals.
        region: the bucket's; "" leaves it to boto3's own configuration.

    Raises:
        BundleError: the address is none of these; the text names `setting`.
    """
    if not uri:
        return Folder(resources.files("smartpay_fraud") / "bundle", setting)
    parts = urlsplit(uri)
    if parts.scheme == "s3" and parts.netloc and parts.path.endswith(".tar.gz"):
        return S3Object(parts.netloc, unquote(parts.path).lstrip("/"), setting, region)
    if parts.scheme in ("", "file") and parts.netloc in ("", "localhost"):
        return Folder(Path(unquote(parts.path)), setting)
    raise BundleError(
        f"{setting}: it is neither a folder nor s3://bucket/key.tar.gz; "
        "give a path, a file:// address or an object in S3."
    )


class Folder:
    """A bundle as a folder, or as a link to one that is swapped atomically."""

    def __init__(self, folder: Traversable, setting: str) -> None:
        self._folder = folder
        self._setting = setting

    def fingerprint(self) -> str:
        """Made of each file's size and time; a link is followed once."""
        folder = self._resolved()
        digest = hashlib.sha256(str(folder).encode())
        for name in FILE_BYTES_MAX:
            path = folder / name
            if isinstance(path, Path) and path.is_file():
                stat = path.stat()
                digest.update(f"{name} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}".encode())
        return digest.hexdigest()

    def read(self) -> dict[str, bytes]:
        """Reads the known files, all from where the link pointed at first."""
        folder = self._resolved()
        files = {}
        for name, bytes_max in FILE_BYTES_MAX.items():
            path = folder / name
            if not path.is_file():
                continue
            with path.open("rb") as file:
                data = file.read(bytes_max + 1)
            if len(data) > bytes_max:
                raise BundleError(f"{name}: larger than {bytes_max} bytes; give a real bundle.")
            files[name] = data
        return files

    def _resolved(self) -> Traversable:
        folder = self._folder.resolve() if isinstance(self._folder, Path) else self._folder
        if not folder.is_dir():
            raise BundleError(f"{self._setting}: there is no such folder; give the bundle's.")
        return folder


class S3Object:
    """A bundle as one tar.gz in S3, as a training job of SageMaker leaves it.

    Reads with boto3; credentials and AWS_ENDPOINT_URL_S3 come from its usual environment.
    """

    def __init__(self, bucket: str, key: str, setting: str, region: str = "") -> None:
        self._bucket = bucket
        self._key = key
        self._setting = setting
        self._region = region or None  # boto3 knows AWS_DEFAULT_REGION and not AWS_REGION
        self._client: Any = None

    def fingerprint(self) -> str:
        """The object's entity tag."""
        return str(self._ask("head_object")["ETag"])

    def read(self) -> dict[str, bytes]:
        """Downloads and unpacks in memory."""
        answer = self._ask("get_object")
        packed = answer["Body"].read(PACKED_BYTES_MAX + 1)
        if len(packed) > PACKED_BYTES_MAX:
            raise BundleError(f"{self._key}: larger than {PACKED_BYTES_MAX} bytes; give a bundle.")
        return unpacked(packed)

    def _ask(self, operation: str) -> Mapping[str, Any]:
        try:
            # Only where bundles live in AWS.
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError, ClientError
        except ImportError:
            raise BundleError(
                f"{self._setting}: bundles in S3 need boto3; install the service's extra `aws`."
            ) from None
        try:
            if self._client is None:
                config = Config(  # type: ignore[no-untyped-call]
                    connect_timeout=_CONNECT_SECONDS, read_timeout=_READ_SECONDS
                )
                self._client = boto3.client(  # type: ignore[no-untyped-call]
                    "s3", config=config, region_name=self._region
                )
            answer: Mapping[str, Any] = getattr(self._client, operation)(
                Bucket=self._bucket, Key=self._key
            )
        except (BotoCoreError, ClientError) as error:
            raise BundleError(
                f"{self._setting}: S3 does not give the object ({type(error).__name__}); "
                "check the address, the region and the service's rights."
            ) from None
        return answer


def unpacked(packed: bytes) -> dict[str, bytes]:
    """Reads a bundle's files out of a tar.gz.

    Only plain files with a bundle's names at the top are read, each up to its limit; whatever
    else lies there, links and paths that lead elsewhere included, is never followed.

    Raises:
        BundleError: it is no archive, or is larger inside than a bundle can be.
    """
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r|gz") as archive:
            size = 0
            for count, member in enumerate(archive):
                size += member.size
                if count >= _MEMBERS_MAX or size > BUNDLE_BYTES_MAX:
                    raise BundleError("the archive holds more than a bundle; pack it again.")
                name = member.name.removeprefix("./")
                bytes_max = FILE_BYTES_MAX.get(name)
                if bytes_max is None or not member.isfile():
                    continue
                content = archive.extractfile(member)
                if name in files or content is None or member.size > bytes_max:
                    raise BundleError(f"{name}: twice there or too large; pack the bundle again.")
                files[name] = content.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise BundleError(
            f"the archive can't be read ({type(error).__name__}); pack the bundle again."
        ) from error
    return files
