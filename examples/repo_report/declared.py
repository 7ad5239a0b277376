"""Imports held against declared dependencies, for Python and npm."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["compare"]

# Import name to distribution, where they differ by more than case and dashes.
_RENAMED = """
    attr=attrs bs4=beautifulsoup4 Crypto=pycryptodome cv2=opencv-python dateutil=python-dateutil
    django_filters=django-filter docx=python-docx dotenv=python-dotenv faiss=faiss-cpu fitz=pymupdf
    git=gitpython github=pygithub gi=pygobject google=protobuf grpc=grpcio jose=python-jose jwt=pyjwt
    kafka=kafka-python ldap=python-ldap magic=python-magic markdown_it=markdown-it-py
    MySQLdb=mysqlclient nacl=pynacl OpenSSL=pyopenssl PIL=pillow pkg_resources=setuptools
    psycopg2=psycopg2-binary pythoncom=pywin32 ruamel=ruamel.yaml sass=libsass serial=pyserial
    skimage=scikit-image sklearn=scikit-learn slugify=python-slugify socks=pysocks
    telegram=python-telegram-bot usb=pyusb websocket=websocket-client win32api=pywin32 win32con=pywin32
    yaml=pyyaml zmq=pyzmq _pytest=pytest
"""
_DISTRIBUTIONS = dict(pair.split("=") for pair in _RENAMED.split())
# Imported under another name than their own too often for a verdict.
_MANY_NAMES = {
    "google",
    "azure",
    "zope",
    "pkg_resources",
    "setuptools",
    "pip",
    "win32api",
    "win32con",
    "pythoncom",
}


def compare(
    ecosystem: str, imports: dict[str, Any], manifests: list[dict[str, Any]]
) -> dict[str, list[str]] | None:
    """`undeclared`: imported by code that is no test, in no manifest; `unimported`: required only.

    None where nothing is declared, or where a manifest could not be read or was cut.
    """
    own = [row for row in manifests if row["ecosystem"] == ecosystem]
    if not own or any(row["error"] or row["count"] > len(row["dependencies"]) for row in own):
        return None
    declared = {_normal(each["name"]) for row in own for each in row["dependencies"]}
    required = {each["name"] for row in own for each in row["dependencies"] if each["group"] == "main"}
    imported = {each["name"]: each for each in imports["third_party"]}
    names = {alias for name in imported for alias in _aliases(name)}
    return {
        "undeclared": [
            name
            for name, each in imported.items()
            if not each["tests_only"] and not each["optional"] and name not in _MANY_NAMES
            if not _aliases(name) & declared
        ],
        "unimported": []
        if imports["third_party_left_out"]
        else sorted(name for name in required if _normal(name) not in names and not _is_for_types(name)),
    }


def _aliases(name: str) -> set[str]:
    """What the distribution of an imported package may be called."""
    plain = _normal(name)
    found = {plain, f"python-{plain}", f"py{plain}"}
    return found | {_normal(_DISTRIBUTIONS[name])} if name in _DISTRIBUTIONS else found


def _is_for_types(name: str) -> bool:
    return name.startswith(("@types/", "types-")) or name.endswith("-stubs")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
