"""X.509 as this server needs it: an authority, its certificate for the server, and what a certificate says.

Pure: keys and certificates go in and come out as PEM bytes, the clock is an argument. Must not touch files.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PEM = serialization.Encoding.PEM
SERVER_COMMON_NAME = "fleven-server"


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long certificates hold, and how long before their end they are replaced.

    Attributes:
        authority: of the authority. Ten years: every car holds it.
        server: of the server's certificate. Browsers accept up to 825 days.
        replace_authority: before its end. Until then a car that was away learns the new one by itself.
        replace_server: before its end.
        backdated: how far in the past they begin. A board without a clock battery starts in the past.
    """

    authority: timedelta = timedelta(days=3650)
    server: timedelta = timedelta(days=397)
    replace_authority: timedelta = timedelta(days=365)
    replace_server: timedelta = timedelta(days=30)
    backdated: timedelta = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What one certificate says.

    Attributes:
        fingerprint: SHA-256 over its DER, 64 hexadecimal digits.
        subject: its subject as text.
        names: DNS names and addresses that it holds for.
        begins: its first moment.
        ends: its last moment.
        public_key: the key's DER; equal for a certificate and its key.
        issuer_key_id: key identifier of who signed it; empty when it names none.
        key_id: its own key identifier; empty when it names none.
    """

    fingerprint: str
    subject: str
    names: frozenset[str]
    begins: datetime
    ends: datetime
    public_key: bytes
    issuer_key_id: bytes
    key_id: bytes


def new_key() -> bytes:
    """Return a new private key (elliptic curve P-256) in PEM, without a password."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_key_of(key: bytes) -> bytes:
    """Return the DER of the public half of a private key.

    Raises:
        ValueError: it is no private key of an elliptic curve in PEM.
    """
    return _public_der(_private(key).public_key())


def facts(certificate: bytes) -> CertificateFacts:
    """Return what the first certificate of a PEM text says.

    Raises:
        ValueError: there is none.
    """
    return _facts(x509.load_pem_x509_certificate(certificate))


def bundle_facts(bundle: bytes) -> list[CertificateFacts]:
    """Return what each certificate of a PEM text says, in its order.

    Raises:
        ValueError: there is none, or one cannot be read.
    """
    return [_facts(one) for one in x509.load_pem_x509_certificates(bundle)]


def split_bundle(bundle: bytes) -> list[bytes]:
    """Return the certificates of a PEM text, one PEM each.

    Raises:
        ValueError: there is none, or one cannot be read.
    """
    return [one.public_bytes(PEM) for one in x509.load_pem_x509_certificates(bundle)]


def make_authority(key: bytes, common_name: str, now: datetime, lifetimes: Lifetimes) -> bytes:
    """Return the certificate of an authority, signed by itself.

    Args:
        key: its private key in PEM.
        common_name: its name; another authority needs another one.
        now: the current moment.
        lifetimes: how long it holds.
    """
    own = _private(key)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = _builder(name, name, own.public_key(), now - lifetimes.backdated, now + lifetimes.authority)
    # One certificate may lie between: the next authority, signed by this one.
    return _sign(_as_authority(builder, path_length=1), own, own.public_key())


def cross_sign(authority: bytes, by_key: bytes, by: bytes, now: datetime, lifetimes: Lifetimes) -> bytes:
    """Return a new authority's certificate signed by the old one: who trusts only the old one believes the new one.

    Args:
        authority: the new authority's certificate.
        by_key: private key of the old authority.
        by: its certificate.
        now: the current moment.
        lifetimes: how far in the past it begins; it ends with the old authority.
    """
    new, old = x509.load_pem_x509_certificate(authority), x509.load_pem_x509_certificate(by)
    key = new.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("the new authority has no key of an elliptic curve")  # noqa: TRY004 -- what a file holds
    builder = _builder(new.subject, old.subject, key, now - lifetimes.backdated, old.not_valid_after_utc)
    signer = _private(by_key)
    return _sign(_as_authority(builder, path_length=0), signer, signer.public_key())


def make_server_certificate(
    key: bytes,
    names: Iterable[str],
    authority_key: bytes,
    authority: bytes,
    now: datetime,
    lifetimes: Lifetimes,
) -> bytes:
    """Return the server's certificate; it never outlives its authority.

    Args:
        key: the server's private key.
        names: DNS names and addresses that it holds for.
        authority_key: private key of the authority.
        authority: its certificate.
        now: the current moment.
        lifetimes: how long it holds.
    """
    own, signer = _private(key), _private(authority_key)
    issuer = x509.load_pem_x509_certificate(authority)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SERVER_COMMON_NAME)])
    ends = min(now + lifetimes.server, issuer.not_valid_after_utc)
    builder = _builder(subject, issuer.subject, own.public_key(), now - lifetimes.backdated, ends)
    builder = builder.add_extension(x509.SubjectAlternativeName([_general(name) for name in sorted(names)]), False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return _sign(builder, signer, signer.public_key())


def is_name(text: str) -> bool:
    """Return whether a text can stand in a certificate: an address, or a DNS name (with `*.` for all below it)."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        labels = text.removeprefix("*.").split(".")
        return len(text) <= 253 and all(_is_label(label) for label in labels)
    return True


def _is_label(label: str) -> bool:
    allowed = label.isascii() and all(character.isalnum() or character in "-_" for character in label)
    return 0 < len(label) <= 63 and allowed and not label.startswith("-") and not label.endswith("-")


def _private(key: bytes) -> ec.EllipticCurvePrivateKey:
    loaded = serialization.load_pem_private_key(key, password=None)
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise ValueError("the private key is not of an elliptic curve")  # noqa: TRY004 -- what a file holds
    return loaded


def _public_der(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _facts(certificate: x509.Certificate) -> CertificateFacts:
    names: set[str] = set()
    issuer_key_id = key_id = b""
    for extension in certificate.extensions:
        value = extension.value
        if isinstance(value, x509.SubjectAlternativeName):
            names.update(value.get_values_for_type(x509.DNSName))
            names.update(str(address) for address in value.get_values_for_type(x509.IPAddress))
        elif isinstance(value, x509.AuthorityKeyIdentifier):
            issuer_key_id = value.key_identifier or b""
        elif isinstance(value, x509.SubjectKeyIdentifier):
            key_id = value.digest
    return CertificateFacts(
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        subject=certificate.subject.rfc4514_string(),
        names=frozenset(names),
        begins=certificate.not_valid_before_utc,
        ends=certificate.not_valid_after_utc,
        public_key=certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
        issuer_key_id=issuer_key_id,
        key_id=key_id,
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, begins: datetime, ends: datetime
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(begins).not_valid_after(ends)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _as_authority(builder: x509.CertificateBuilder, *, path_length: int) -> x509.CertificateBuilder:
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
    return builder.add_extension(_key_usage(signs_certificates=True), critical=True)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _sign(
    builder: x509.CertificateBuilder, signer: ec.EllipticCurvePrivateKey, signer_public: ec.EllipticCurvePublicKey
) -> bytes:
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer_public)
    return builder.add_extension(identifier, critical=False).sign(signer, hashes.SHA256()).public_bytes(PEM)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
