"""Fetches the page's libraries again, as `openai_gateway/web/vendor/manifest.json` names them.

Writes the files as they were published, their licences and their hashes. To update one, change its version
there and run this; needs npm's client, and is not part of any build.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

__all__ = ["main"]

VENDOR = Path(__file__).parent.parent / "openai_gateway" / "web" / "vendor"
MANIFEST = VENDOR / "manifest.json"


def published(package: dict[str, Any]) -> dict[str, bytes]:
    """The package's files by their paths in it."""
    with tempfile.TemporaryDirectory() as folder:
        name = f"{package['name']}@{package['version']}"
        subprocess.run(["npm", "pack", "--silent", name], cwd=folder, check=True, capture_output=True)
        [archive] = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as tar:
            files = {member.name.partition("/")[2]: tar.extractfile(member) for member in tar.getmembers()}
            return {path: file.read() for path, file in files.items() if file is not None}


def main() -> None:
    """Write everything below `VENDOR`."""
    manifest = json.loads(MANIFEST.read_text(encoding="utf-8"))
    licences, hashes = [], {}
    for package in manifest["packages"]:
        files = published(package)
        title = f"{package['name']} {package['version']} ({package['licence']})"
        text = files[package["licence_file"]].decode()
        licences.append(f"{title}\n{'=' * len(title)}\n\n{text.strip()}\n")
        for ours, theirs in package["files"].items():
            (VENDOR / ours).parent.mkdir(parents=True, exist_ok=True)
            (VENDOR / ours).write_bytes(files[theirs])
            hashes[ours] = hashlib.sha256(files[theirs]).hexdigest()
    manifest["sha256"] = dict(sorted(hashes.items()))
    MANIFEST.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    (VENDOR / "LICENSES.txt").write_text("\n\n".join(licences), encoding="utf-8")


if __name__ == "__main__":
    main()
