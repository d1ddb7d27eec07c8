from __future__ import annotations

import datetime
import os
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from smartpay_gateway.__main__ import main
from smartpay_gateway.certificates import (
    CA_DAYS,
    LEAF_DAYS,
    EnvironmentRefusedError,
    RotationRefusedError,
    create_authority,
    issue,
    issue_leaf,
    place,
    rotate,
)
from smartpay_gateway.topology import EDGE, SERVICES

NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)


def leaf(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "tls.crt").read_bytes())


def names(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


@pytest.mark.parametrize("environment", ["staging", "prod", "", "development"])
def test_the_development_ca_works_for_development_only(tmp_path: Path, environment: str) -> None:
    with pytest.raises(EnvironmentRefusedError):
        issue(tmp_path / "certs", environment)
    assert not (tmp_path / "certs").exists()


def test_the_command_refuses_other_environments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["certificates", "--out", str(tmp_path), "--environment", "prod"]) == 1
    assert "own issuer" in capsys.readouterr().err


def test_every_service_gets_its_spiffe_id_and_a_signature_of_the_ca(tmp_path: Path) -> None:
    ca = x509.load_pem_x509_certificate(issue(tmp_path, "dev", now=NOW).read_bytes())
    for service in (EDGE, *SERVICES):
        certificate = leaf(tmp_path / service)
        certificate.verify_directly_issued_by(ca)
        ids = names(certificate).get_values_for_type(x509.UniformResourceIdentifier)
        assert ids == [f"spiffe://smartpay/dev/{service}"]


def test_only_the_edge_is_a_server_for_this_machine(tmp_path: Path) -> None:
    issue(tmp_path, "dev", now=NOW)
    assert "localhost" in names(leaf(tmp_path / EDGE)).get_values_for_type(x509.DNSName)
    for service in SERVICES:
        found = names(leaf(tmp_path / service))
        assert "localhost" not in found.get_values_for_type(x509.DNSName)
        assert found.get_values_for_type(x509.IPAddress) == []


def test_validity_is_what_the_settings_say(tmp_path: Path) -> None:
    issue(tmp_path, "dev", now=NOW)
    assert leaf(tmp_path / EDGE).not_valid_after_utc == NOW + datetime.timedelta(days=LEAF_DAYS)


def test_keys_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    issue(tmp_path, "dev", now=NOW)
    for key in (tmp_path / "ca.key", tmp_path / EDGE / "tls.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_a_second_issue_keeps_the_ca_and_renews_the_rest(tmp_path: Path) -> None:
    ca = issue(tmp_path, "dev", now=NOW).read_bytes()
    first = leaf(tmp_path / EDGE)
    later = NOW + datetime.timedelta(days=1)
    assert issue(tmp_path, "dev", now=later).read_bytes() == ca
    assert leaf(tmp_path / EDGE).serial_number != first.serial_number
    assert leaf(tmp_path / EDGE).not_valid_after_utc > first.not_valid_after_utc


def test_a_ca_that_would_end_before_its_leaves_is_replaced(tmp_path: Path) -> None:
    ca = issue(tmp_path, "dev", now=NOW).read_bytes()
    later = NOW + datetime.timedelta(days=CA_DAYS - LEAF_DAYS)
    assert issue(tmp_path, "dev", now=later).read_bytes() != ca
    assert (tmp_path / EDGE / "ca.crt").read_bytes() == (tmp_path / "ca.crt").read_bytes()


def test_certificate_and_key_are_swapped_by_one_link(tmp_path: Path) -> None:
    authority = create_authority(NOW)
    folder = tmp_path / "edge"
    place(folder, *issue_leaf(authority, EDGE, NOW), authority.pem())
    before = os.readlink(folder / "..data")
    place(folder, *issue_leaf(authority, EDGE, NOW), authority.pem())
    assert os.readlink(folder / "..data") != before
    for name in ("tls.crt", "tls.key", "ca.crt", "certificate.json", "trust.json"):
        assert os.readlink(folder / name) == f"..data/{name}"
    key = serialization.load_pem_private_key((folder / "tls.key").read_bytes(), None)
    assert leaf(folder).public_key() == key.public_key()
    # What was replaced is gone: no old key stays behind.
    assert len([p for p in folder.iterdir() if p.is_dir() and not p.is_symlink()]) == 1


def test_a_rotation_renews_all_certificates_under_the_same_ca(tmp_path: Path) -> None:
    ca = issue(tmp_path, "dev", now=NOW).read_bytes()
    before = {service: leaf(tmp_path / service).serial_number for service in (EDGE, *SERVICES)}
    later = NOW + datetime.timedelta(days=3)
    until = rotate(tmp_path, "dev", later)
    assert set(until) == set(before)
    assert (tmp_path / "ca.crt").read_bytes() == ca
    for service, serial in before.items():
        assert leaf(tmp_path / service).serial_number != serial
        assert leaf(tmp_path / service).not_valid_after_utc == until[service]


def test_a_rotation_never_changes_what_peers_trust(tmp_path: Path) -> None:
    with pytest.raises(RotationRefusedError):
        rotate(tmp_path, "dev", NOW)
    ca = issue(tmp_path, "dev", now=NOW).read_bytes()
    # The CA would end before the new certificates: only a stopped mesh may get another.
    with pytest.raises(RotationRefusedError):
        rotate(tmp_path, "dev", NOW + datetime.timedelta(days=CA_DAYS - LEAF_DAYS))
    assert (tmp_path / "ca.crt").read_bytes() == ca
    with pytest.raises(EnvironmentRefusedError):
        rotate(tmp_path, "prod", NOW)


def test_the_command_rotates_and_says_until_when(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["certificates", "--out", str(tmp_path), "--environment", "dev"]
    assert main([*arguments, "--rotate"]) == 1
    assert "--rotate" in capsys.readouterr().err
    assert main(arguments) == 0
    capsys.readouterr()
    assert main([*arguments, "--rotate"]) == 0
    printed = capsys.readouterr().out
    assert all(f"{service}: valid until " in printed for service in (EDGE, *SERVICES))
