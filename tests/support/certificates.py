"""Certificates for tests of TLS: a CA, and what it signed for 127.0.0.1, as the server's own does."""

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def write_certificates(folder: Path, *, days: int = 365) -> Path:
    """Write a CA (ca.crt) and a certificate of 127.0.0.1 and fleven-server (server.crt, .key); return the folder."""
    folder.mkdir()
    now = datetime.datetime.now(tz=datetime.UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    # A name of its own: OpenSSL looks for the signer of a certificate by name.
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"test CA {x509.random_serial_number():x}")])

    def builder(subject: x509.Name) -> x509.CertificateBuilder:
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(ca_name)
        made = made.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        return made.not_valid_after(now + datetime.timedelta(days=days))

    ca = builder(ca_name).public_key(ca_key.public_key())
    ca = ca.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    names = x509.SubjectAlternativeName(
        [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("fleven-server")]
    )
    own = builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "superlink")])).public_key(key.public_key())
    own = own.add_extension(names, critical=False)
    pem = serialization.Encoding.PEM
    (folder / "ca.crt").write_bytes(ca.sign(ca_key, hashes.SHA256()).public_bytes(pem))
    (folder / "server.crt").write_bytes(own.sign(ca_key, hashes.SHA256()).public_bytes(pem))
    (folder / "server.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder


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
