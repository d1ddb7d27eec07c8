"""The development CA: certificates with SPIFFE ids, written so that no half pair is ever seen.

A service's folder looks as kubelet lays out a mounted secret: plain names that point into
`..data`, itself a link to the newest version. Replacing that one link swaps certificate, key and
trust bundle together, and Envoy, which watches the folder, takes them over without a restart.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from smartpay_gateway.templates import fill, load
from smartpay_gateway.topology import DEVELOPMENT, EDGE, SERVICES, server_name, spiffe_id

CA_DAYS = 30
"""A development CA outlives no sprint, so that nobody comes to rely on it."""

LEAF_DAYS = 7
"""Certificates are issued anew at every start; a week covers a mesh left running."""

SETTLE_SECONDS = 2.0
"""Pause between the steps of a CA's rotation: Envoy takes a swapped folder over within
milliseconds, on a busy machine within a second."""

CLOCK_SKEW = datetime.timedelta(minutes=5)
"""Certificates are valid from a little earlier, for machines whose clock is behind."""

CA_CERTIFICATE = "ca.crt"
CA_KEY = "ca.key"
_DATA = "..data"
_FILES = ("tls.crt", "tls.key", CA_CERTIFICATE, "certificate.json", "trust.json")


class EnvironmentRefusedError(Exception):
    """The development CA was asked to work outside development."""


class RotationRefusedError(Exception):
    """A running mesh can't get new certificates: there are none yet, or its CA ends too soon."""


@dataclass(frozen=True)
class Authority:
    """A certificate authority that can sign: its certificate and its key (EC P-256)."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def pem(self) -> bytes:
        """Prints the certificate, which is the trust bundle of all peers."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)


def create_authority(now: datetime.datetime) -> Authority:
    """Creates a CA that may sign leaves of our trust domain and nothing else."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "SmartPay development CA")])
    certificate = (
        _builder(name, name, key.public_key(), now, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key)


def issue_leaf(
    authority: Authority, service: str, now: datetime.datetime, environment: str = DEVELOPMENT
) -> tuple[bytes, bytes]:
    """Issues certificate and key (PEM) of one service; the edge's also names this machine.

    SPIFFE wants exactly one URI SAN: https://github.com/spiffe/spiffe X509-SVID section 2.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [
        x509.UniformResourceIdentifier(spiffe_id(environment, service)),
        x509.DNSName(server_name(service)),
    ]
    if service == EDGE:
        names.append(x509.DNSName("localhost"))
        names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, service)])
    issuer = authority.certificate.subject
    certificate = (
        _builder(subject, issuer, key.public_key(), now, LEAF_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
            critical=False,
        )
        .sign(authority.key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), _private(key)


def issue(
    folder: Path,
    environment: str,
    *,
    services: Sequence[str] = (EDGE, *SERVICES),
    now: datetime.datetime | None = None,
) -> Path:
    """Writes a folder per service and returns the CA's certificate; keeps a CA still valid.

    Raises EnvironmentRefusedError outside development: there cert-manager or its like issues.
    """
    _only_in_development(environment)
    now = now or datetime.datetime.now(datetime.UTC)
    folder.mkdir(parents=True, exist_ok=True)
    authority = authority_of(folder, now)
    # Of several CAs, which an interrupted rotation leaves behind, a fresh start trusts one.
    _replace(folder / CA_CERTIFICATE, authority.pem())
    for service in services:
        certificate, key = issue_leaf(authority, service, now, environment)
        place(folder / service, certificate, key, authority.pem())
    return folder / CA_CERTIFICATE


def rotate(
    folder: Path, environment: str, now: datetime.datetime | None = None
) -> dict[str, datetime.datetime]:
    """Renews the certificates of a running mesh and returns until when they are valid.

    No call fails meanwhile: whatever half of the mesh has its new certificate, all of it trusts
    the one CA. Raises RotationRefusedError when that CA would have to be replaced, and
    EnvironmentRefusedError outside development.
    """
    _only_in_development(environment)
    now = now or datetime.datetime.now(datetime.UTC)
    authority = _standing_authority(folder, now)
    services = _running(folder)
    if authority is None:
        raise RotationRefusedError(
            f"The CA in {folder} ends within {LEAF_DAYS} days: rotate it with --rotate-ca."
        )
    trust = (folder / CA_CERTIFICATE).read_bytes()
    for service in services:
        certificate, key = issue_leaf(authority, service, now, environment)
        place(folder / service, certificate, key, trust)
    return dict.fromkeys(services, now + datetime.timedelta(days=LEAF_DAYS))


def rotate_authority(
    folder: Path,
    environment: str,
    settle: Callable[[], None],
    now: datetime.datetime | None = None,
) -> dict[str, datetime.datetime]:
    """Gives a running mesh another CA and returns until when its certificates are valid.

    In three steps, so that no call fails: all trust both CAs, then all show certificates of the
    new one, then nobody trusts the old one. `settle` waits between them until every Envoy took
    over what lies in its folder. An interrupted rotation is simply begun again: until the last
    step trust is only added. Raises RotationRefusedError where there are no certificates yet, and
    EnvironmentRefusedError outside development.
    """
    _only_in_development(environment)
    now = now or datetime.datetime.now(datetime.UTC)
    services = _running(folder)
    authority = create_authority(now)
    both = authority.pem() + (folder / CA_CERTIFICATE).read_bytes()
    _replace(folder / CA_CERTIFICATE, both)
    for service in services:
        place(folder / service, *_own(folder / service), both)
    settle()
    _replace(folder / CA_KEY, _private(authority.key))
    for service in services:
        place(folder / service, *issue_leaf(authority, service, now, environment), both)
    settle()
    _replace(folder / CA_CERTIFICATE, authority.pem())
    for service in services:
        place(folder / service, *_own(folder / service), authority.pem())
    return dict.fromkeys(services, now + datetime.timedelta(days=LEAF_DAYS))


def _running(folder: Path) -> list[str]:
    """Lists who has a certificate; raises RotationRefusedError where nobody has."""
    services = [s for s in (EDGE, *SERVICES) if (folder / s / _DATA).is_symlink()]
    if not services:
        raise RotationRefusedError(
            f"{folder} has no certificates to renew: issue them without --rotate or --rotate-ca."
        )
    return services


def _own(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "tls.crt").read_bytes(), (folder / "tls.key").read_bytes()


def _only_in_development(environment: str) -> None:
    if environment != DEVELOPMENT:
        raise EnvironmentRefusedError(
            f"The development CA works for {DEVELOPMENT!r}, not for {environment!r}: "
            "use the environment's own issuer."
        )


def place(folder: Path, certificate: bytes, key: bytes, trust: bytes) -> None:
    """Swaps a service's certificate, key and trust bundle in at once."""
    folder.mkdir(parents=True, exist_ok=True)
    holes = {"CERTIFICATE_FOLDER": str(folder.resolve())}
    contents = {
        "tls.crt": certificate,
        "tls.key": key,
        CA_CERTIFICATE: trust,
        "certificate.json": fill(load("certificate"), holes).encode(),
        "trust.json": fill(load("trust"), holes).encode(),
    }
    current = folder / _DATA
    old = os.readlink(current) if current.is_symlink() else None
    fresh = folder / f"..{os.urandom(8).hex()}"
    fresh.mkdir(mode=0o700)
    for name, content in contents.items():
        _write_private(fresh / name, content)
    temporary = folder / "..data_tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(fresh.name)
    temporary.replace(current)
    for name in _FILES:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"{_DATA}/{name}")
    if old is not None:
        shutil.rmtree(folder / old)


def authority_of(folder: Path, now: datetime.datetime) -> Authority:
    """Loads a folder's CA, or makes one when there is none that outlives the leaves."""
    standing = _standing_authority(folder, now)
    if standing is not None:
        return standing
    authority = create_authority(now)
    _replace(folder / CA_KEY, _private(authority.key))
    _replace(folder / CA_CERTIFICATE, authority.pem())
    return authority


def _standing_authority(folder: Path, now: datetime.datetime) -> Authority | None:
    certificate_path, key_path = folder / CA_CERTIFICATE, folder / CA_KEY
    if not (certificate_path.exists() and key_path.exists()):
        return None
    key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        return None
    # While a CA is rotated there are two; the key says which one signs.
    for certificate in x509.load_pem_x509_certificates(certificate_path.read_bytes()):
        outlives_leaves = certificate.not_valid_after_utc > now + datetime.timedelta(days=LEAF_DAYS)
        if key.public_key() == certificate.public_key() and outlives_leaves:
            return Authority(certificate, key)
    return None


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime.datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    _write_private(temporary, content)
    temporary.replace(path)


def _write_private(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
