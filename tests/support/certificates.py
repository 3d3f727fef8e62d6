"""Certificates for servers of tests, by an authority of the test's own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from attrs import frozen

HOST = "localhost"
"""The only name in the certificates."""


@frozen
class Certificates:
    """Files in PEM: those of the authority, and of a server that it vouches for."""

    authority: Path
    server: Path
    key: Path


def make_certificates(folder: Path) -> Certificates:
    """Make an authority, and a certificate of a server that is called ``localhost``."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl to make certificates with: apt-get install openssl")
    extensions = folder / "extensions"
    extensions.write_text(f"subjectAltName=DNS:{HOST}\n")
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    of_ca = ("-subj", "/CN=authority", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    signing = ("-CA", "authority.pem", "-CAkey", "authority.key", "-CAcreateserial")
    by_ca = (*signing, "-extfile", str(extensions))
    for arguments in (
        ("req", "-x509", *new_key, "-keyout", "authority.key", "-out", "authority.pem", *of_ca),
        ("req", *new_key, "-keyout", "server.key", "-out", "server.csr", "-subj", f"/CN={HOST}"),
        ("x509", "-req", "-in", "server.csr", "-out", "server.pem", *by_ca),
    ):
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True)
    return Certificates(folder / "authority.pem", folder / "server.pem", folder / "server.key")
