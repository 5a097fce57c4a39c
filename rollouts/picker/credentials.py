"""TLS for the gRPC port: certificate files that are read again when they change, or a self-signed one.

The Inference Extension's pickers serve TLS with a self-signed certificate by default, and gateways do not
verify it; files are for those that do.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Callable
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


Pair = tuple[bytes, bytes]


def self_signed_credentials(client_ca: Path | None = None) -> Any:
    """gRPC server credentials with a certificate made now; see ``credentials_from_files`` for ``client_ca``."""
    pair = self_signed_pair()
    if client_ca is None:
        return grpc.ssl_server_credentials([pair])
    return _watched(lambda: pair, client_ca)


def credentials_from_files(folder: Path, client_ca: Path | None = None) -> Any:
    """gRPC server credentials from ``tls.key`` and ``tls.crt``, the names in a Kubernetes TLS secret.

    With ``client_ca``, a PEM file, only clients with a certificate of one of its authorities may connect. New
    connections get the files' present content; what cannot be read leaves the last content in use. Raises OSError
    when there is none to begin with.
    """
    return _watched(lambda: _read_pair(folder), client_ca)


def _watched(read_pair: Callable[[], Pair], client_ca: Path | None) -> Any:
    def read() -> tuple[Pair, bytes | None]:
        return read_pair(), None if client_ca is None else _read_authorities(client_ca)

    last = read()

    def fetch() -> Any:
        nonlocal last
        try:
            found = read()
        except OSError as error:
            _log.warning("certificate_unreadable", error=str(error))
            return None
        if found == last:
            return None  # keep what is there
        last = found
        _log.info("certificate_reloaded")
        return grpc.ssl_server_certificate_configuration([found[0]], root_certificates=found[1])

    initial = grpc.ssl_server_certificate_configuration([last[0]], root_certificates=last[1])
    return grpc.dynamic_ssl_server_credentials(
        initial, fetch, require_client_authentication=client_ca is not None
    )


def _read_authorities(path: Path) -> bytes:
    """Raises OSError for a file without a certificate: gRPC would then trust whom it likes."""
    pem = path.read_bytes()
    try:
        if x509.load_pem_x509_certificates(pem):
            return pem
    except ValueError:
        pass
    raise OSError(f"{path} holds no PEM certificate of an authority")


def _read_pair(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "tls.key").read_bytes(), (folder / "tls.crt").read_bytes()
