"""The image of which the tests' services are made: Debian with four servers, by debootstrap, kept for the next run."""

import hashlib
import os
import pathlib
import shutil
import subprocess
import tempfile

from .waiting import NotSeen

ROOT = pathlib.Path(__file__).resolve().parents[3]
# Ignored by git. A tar for each recipe, 300 MB.
KEPT = ROOT / ".build-images"
BASE = "kl-e2e-base"
SUITE, MIRROR = "bookworm", "http://deb.debian.org/debian"
PACKAGES = ("nginx-light", "redis-server", "postgresql-15", "python3")
# PostgreSQL's compiler is two thirds of the whole, and used for long queries only.
UNNEEDED = (
    "usr/share/doc usr/share/man usr/share/locale usr/share/info usr/share/i18n var/cache/apt var/lib/apt/lists "
    "usr/lib/x86_64-linux-gnu/libLLVM* usr/lib/aarch64-linux-gnu/libLLVM* usr/lib/postgresql/*/lib/bitcode "
    "usr/lib/postgresql/*/lib/llvmjit*"
).split()
HBA = "host all all all trust\nlocal all all trust\n"


def base_tar():
    """The path of the tar; made where it isn't there, which takes a minute and needs Debian's mirror."""
    recipe = repr((SUITE, MIRROR, PACKAGES, UNNEEDED, HBA))
    tar = KEPT / f"base-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}.tar"
    if not tar.exists():
        KEPT.mkdir(exist_ok=True)
        for old in KEPT.glob("base-*.tar"):
            old.unlink()
        work = pathlib.Path(tempfile.mkdtemp(prefix="work-", dir=KEPT))
        try:
            _make(work, tar)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return tar


def _make(work, tar):
    root = work / "root"
    said = work / "debootstrap.log"
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, root, _mirror()]
    with open(said, "wb") as log:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    if done.returncode:
        tail = said.read_text(errors="replace").splitlines()[-15:]
        raise NotSeen("debootstrap failed:\n" + "\n".join(tail))
    for pattern in UNNEEDED:
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for file in root.glob("etc/postgresql/*/main/pg_hba.conf"):
        file.write_text(HBA)
    unfinished = tar.with_suffix(".new")
    subprocess.run(["tar", "--numeric-owner", "-C", root, "-cf", unfinished, "."], check=True)
    os.rename(unfinished, tar)


def _mirror():
    """The mirror that this machine's apt was told; Debian's own where it wasn't."""
    for file in [pathlib.Path("/etc/apt/sources.list"), *pathlib.Path("/etc/apt/sources.list.d").glob("*")]:
        if not file.is_file():
            continue
        for line in file.read_text(errors="replace").splitlines():
            words = line.split("#")[0].split()
            address = next((word for word in words if word.startswith(("http://", "https://"))), "")
            if address.rstrip("/").endswith("/debian") and words[0] in ("deb", "URIs:"):
                return address
    return MIRROR
