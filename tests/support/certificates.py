"""Certificates for tests of TLS: a CA, and what it signed for 127.0.0.1, as the server's own does."""

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)
_PEM = serialization.Encoding.PEM


def write_certificates(folder: Path, *, days: int = 365) -> Path:
    """Write a CA (ca.crt) and a certificate of 127.0.0.1 and fleven-server, with their keys; return the folder."""
    folder.mkdir()
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    # A name of its own: OpenSSL looks for the signer of a certificate by name.
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"test CA {x509.random_serial_number():x}")])
    ca = _builder(ca_name, ca_name, days).public_key(ca_key.public_key())
    ca = ca.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    (folder / "ca.crt").write_bytes(ca.sign(ca_key, hashes.SHA256()).public_bytes(_PEM))
    for name, private in (("ca.key", ca_key), ("server.key", key)):
        form = (_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (folder / name).write_bytes(private.private_bytes(*form))
    return sign_server(folder, days=days)


def sign_server(folder: Path, *, days: int) -> Path:
    """Sign the server's key anew by the folder's CA, so many days from now on; return the folder."""
    ca = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    ca_key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    key = serialization.load_pem_private_key((folder / "server.key").read_bytes(), None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    names = x509.SubjectAlternativeName(
        [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("fleven-server")]
    )
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "superlink")])
    own = _builder(subject, ca.subject, days).public_key(key.public_key()).add_extension(names, critical=False)
    (folder / "server.crt").write_bytes(own.sign(ca_key, hashes.SHA256()).public_bytes(_PEM))
    return folder


def _builder(subject: x509.Name, issuer: x509.Name, days: int) -> x509.CertificateBuilder:
    now = datetime.datetime.now(tz=datetime.UTC)
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer)
    made = made.serial_number(x509.random_serial_number()).not_valid_before(now - 10 * DAY)
    return made.not_valid_after(now + days * DAY)


def write_node_key(folder: Path) -> Path:
    """Write a node's private key in OpenSSH's form (node.key) and its public key (node.pub); return the private one."""
    key = ec.generate_private_key(ec.SECP384R1())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    private = folder / "node.key"
    private.write_bytes(key.private_bytes(*form))
    private.chmod(0o600)
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    (folder / "node.pub").write_bytes(public)
    return private
