"""What is installed: locks that say exactly what was tested, and a wheel that carries its page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
LOCKS = {"run.txt": ["run.in"], "dev.txt": ["run.in", "dev.in"]}


def locked(name: str) -> list[str]:
    """The requirements of a lock, each on one line with its hashes, comments gone."""
    text = (ROOT / "requirements" / name).read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_requirement_has_one_version_and_its_hashes(lock: str) -> None:
    """Nothing but what was tested is ever installed, from wherever it comes."""
    lines = locked(lock)

    assert lines
    for line in lines:
        assert re.fullmatch(r"[a-z0-9.-]+==[^\s;]+( ; [^-]+?)?(\s+--hash=sha256:[0-9a-f]{64})+", line), line[:80]


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_holds_everything_asked_for(lock: str) -> None:
    """A dependency added without `make lock` is found here, not on a user's machine."""
    wanted = [*tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]]
    for source in LOCKS[lock]:
        lines = (ROOT / "requirements" / source).read_text().splitlines()
        wanted += [line for line in lines if line and not line.startswith("#")]
    pinned: dict[str, set[str]] = {}
    for line in locked(lock):
        name, version = line.split()[0].split("==")
        pinned.setdefault(name, set()).add(version)

    for requirement in map(Requirement, wanted):
        versions = pinned.get(canonicalize_name(requirement.name), set())
        assert versions, f"{requirement.name} is not in {lock}: run `make lock`"
        assert all(version in requirement.specifier for version in versions), f"{requirement} against {versions}"


def test_the_pages_lock_says_what_and_not_from_where() -> None:
    """A version and a hash for every package, and no address: a mirror serves as well as the registry."""
    lock = json.loads((ROOT / "web" / "package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}

    assert len(packages) > 100
    for name, entry in packages.items():
        assert entry["version"], name
        assert re.fullmatch(r"sha512-[A-Za-z0-9+/=]{88}", entry["integrity"]), name
        assert "resolved" not in entry, name
    wanted = json.loads((ROOT / "web" / "package.json").read_text())
    for name, version in (wanted["dependencies"] | wanted["devDependencies"]).items():
        assert packages[f"node_modules/{name}"]["version"] == version, f"{name}: run npm install"


@pytest.mark.parametrize("target", ["run", "bench", "campaign", "wheel", "web"])
def test_what_shows_the_page_builds_it_first(target: str) -> None:
    """A page that is older than its source is neither served nor measured."""
    asked = ["make", "--dry-run", "--what-if=web/index.html", target]
    told = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "Building the page" in told.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What a wheel is built from, without a page."""
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "tools", tmp_path / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "chatserver").mkdir()
    shutil.copy(ROOT / "chatserver" / "__init__.py", tmp_path / "chatserver")
    (tmp_path / "docs" / "decisions").mkdir(parents=True)
    (tmp_path / "docs" / "decisions" / "0001-why.md").write_text("# Why\n")
    return tmp_path


def build_wheel(checkout: Path) -> subprocess.CompletedProcess[str]:
    """Build without fetching anything: the backend is in the lock."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "out"]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True)


def test_a_wheel_carries_the_built_page_and_the_docs(checkout: Path) -> None:
    """An installed server has its page and the texts its embedded agent answers from."""
    page = checkout / "web" / "dist"
    (page / "assets").mkdir(parents=True)
    (page / "index.html").write_text("<!doctype html>")
    (page / "assets" / "main.js").write_text("0;")

    built = build_wheel(checkout)

    assert built.returncode == 0, built.stderr
    (wheel,) = (checkout / "out").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {
        "chatserver/__init__.py",
        "chatserver/_page/index.html",
        "chatserver/_page/assets/main.js",
        "chatserver/_docs/decisions/0001-why.md",
    } <= names


def test_a_wheel_without_its_page_is_refused(checkout: Path) -> None:
    """A server that would serve nothing is not built by accident."""
    built = build_wheel(checkout)

    assert built.returncode != 0
    assert "make web" in built.stdout + built.stderr
