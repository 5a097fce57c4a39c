"""TLS for the gRPC port: certificate files that are read again when they change, or a self-signed one.

The Inference Extension's pickers serve TLS with a self-signed certificate by default, and gateways do not
verify it; files are for those that do.
"""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path
from typing import Any

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["credentials_from_files", "self_signed_credentials", "self_signed_pair"]

_log = structlog.get_logger(__name__)


def self_signed_pair(name: str = "inference-picker", *, days: int = 3650) -> tuple[bytes, bytes]:
    """(private key, certificate), both PEM, for ``name``, localhost and 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName(name), x509.DNSName("localhost")]
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([*names, address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, certificate.public_bytes(serialization.Encoding.PEM)


def self_signed_credentials() -> Any:
    """gRPC server credentials with a certificate made now."""
    return grpc.ssl_server_credentials([self_signed_pair()])


def credentials_from_files(folder: Path) -> Any:
    """gRPC server credentials from ``tls.key`` and ``tls.crt``, the names in a Kubernetes TLS secret.

    New connections get the files' present content; a pair that cannot be read leaves the last one in use.
    Raises OSError when there is none to begin with.
    """
    last = _read_pair(folder)

    def fetch() -> Any:
        nonlocal last
        try:
            pair = _read_pair(folder)
        except OSError as error:
            _log.warning("certificate_unreadable", folder=str(folder), error=str(error))
            return None
        if pair == last:
            return None  # keep what is there
        last = pair
        _log.info("certificate_reloaded", folder=str(folder))
        return grpc.ssl_server_certificate_configuration([pair])

    return grpc.dynamic_ssl_server_credentials(grpc.ssl_server_certificate_configuration([last]), fetch)


def _read_pair(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "tls.key").read_bytes(), (folder / "tls.crt").read_bytes()
