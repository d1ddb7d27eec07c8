from __future__ import annotations

import datetime
import os
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from smartpay_gateway import certificates
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
    rotate_authority,
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
    with pytest.raises(RotationRefusedError, match="no certificates"):
        rotate(tmp_path, "dev", NOW)
    ca = issue(tmp_path, "dev", now=NOW).read_bytes()
    # The CA would end before the new certificates.
    with pytest.raises(RotationRefusedError, match="--rotate-ca"):
        rotate(tmp_path, "dev", NOW + datetime.timedelta(days=CA_DAYS - LEAF_DAYS))
    assert (tmp_path / "ca.crt").read_bytes() == ca
    with pytest.raises(EnvironmentRefusedError):
        rotate(tmp_path, "prod", NOW)


def trusted(folder: Path) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates((folder / "ca.crt").read_bytes())


def all_trust(folder: Path, *authorities: x509.Certificate) -> bool:
    folders = [folder, *(folder / service for service in (EDGE, *SERVICES))]
    return all(set(trusted(one)) == set(authorities) for one in folders)


def all_are_of(folder: Path, authority: x509.Certificate) -> None:
    for service in (EDGE, *SERVICES):
        leaf(folder / service).verify_directly_issued_by(authority)


def test_a_ca_is_rotated_in_three_steps_of_which_none_distrusts_what_is_shown(
    tmp_path: Path,
) -> None:
    (old,) = x509.load_pem_x509_certificates(issue(tmp_path, "dev", now=NOW).read_bytes())
    steps: list[list[x509.Certificate]] = []

    def settle() -> None:
        steps.append(trusted(tmp_path))
        (new,) = set(steps[-1]) - {old}
        assert all_trust(tmp_path, old, new)
        all_are_of(tmp_path, old if len(steps) == 1 else new)

    # Too late for leaves of the old CA, which is what it is for.
    later = NOW + datetime.timedelta(days=CA_DAYS - LEAF_DAYS)
    until = rotate_authority(tmp_path, "dev", settle, later)
    (new,) = set(steps[0]) - {old}
    assert steps[0] == steps[1]
    assert all_trust(tmp_path, new)
    all_are_of(tmp_path, new)
    assert leaf(tmp_path / EDGE).not_valid_after_utc == until[EDGE]
    # The key of the new one is there to go on with.
    rotate(tmp_path, "dev", later)
    all_are_of(tmp_path, new)


@pytest.mark.parametrize("steps_done", [1, 2])
def test_a_ca_rotation_that_was_interrupted_is_begun_again(tmp_path: Path, steps_done: int) -> None:
    (old,) = x509.load_pem_x509_certificates(issue(tmp_path, "dev", now=NOW).read_bytes())
    steps = 0

    def die() -> None:
        nonlocal steps
        steps += 1
        if steps == steps_done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rotate_authority(tmp_path, "dev", die, NOW)
    (half,) = set(trusted(tmp_path)) - {old}
    # Meanwhile leaves can be renewed, and nobody distrusts those that were not yet.
    rotate(tmp_path, "dev", NOW)
    assert all_trust(tmp_path, old, half)
    all_are_of(tmp_path, old if steps_done == 1 else half)

    def settle() -> None:
        assert {old, half} < set(trusted(tmp_path))

    rotate_authority(tmp_path, "dev", settle, NOW)
    (new,) = trusted(tmp_path)
    assert new not in (old, half)
    assert all_trust(tmp_path, new)


def test_a_start_after_an_interrupted_ca_rotation_trusts_one_ca(tmp_path: Path) -> None:
    (old,) = x509.load_pem_x509_certificates(issue(tmp_path, "dev", now=NOW).read_bytes())

    def die() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rotate_authority(tmp_path, "dev", die, NOW)
    issue(tmp_path, "dev", now=NOW)
    assert all_trust(tmp_path, old)
    all_are_of(tmp_path, old)


def test_a_ca_is_not_rotated_elsewhere_or_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentRefusedError):
        rotate_authority(tmp_path, "prod", lambda: None, NOW)
    with pytest.raises(RotationRefusedError, match="no certificates"):
        rotate_authority(tmp_path, "dev", lambda: None, NOW)
    assert list(tmp_path.iterdir()) == []


def test_the_command_rotates_the_ca_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "SETTLE_SECONDS", 0)
    arguments = ["certificates", "--out", str(tmp_path), "--environment", "dev"]
    assert main(arguments) == 0
    (old,) = trusted(tmp_path)
    assert main([*arguments, "--rotate-ca"]) == 0
    assert f"{EDGE}: valid until " in capsys.readouterr().out
    assert old not in trusted(tmp_path)
    with pytest.raises(SystemExit):
        main([*arguments, "--rotate", "--rotate-ca"])


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
