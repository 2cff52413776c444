"""The lock files: the libraries of the package and of the tests, by version and hash."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TREE = Path(__file__).parents[2]
LOCK, DEV_LOCK = TREE / "scripts/requirements.lock", TREE / "scripts/requirements-dev.lock"


def locked(file: Path) -> dict[str, str]:
    """Names and versions in a lock file; each has hashes, and nothing else is there."""
    found: dict[str, str] = {}
    for entry in file.read_text().replace("\\\n", " ").splitlines():
        if entry and not entry.startswith("#"):
            pinned = re.fullmatch(r"([a-z0-9.-]+)==(\S+)( ;[^;]+?)?((\s+--hash=sha256:[0-9a-f]{64})+)\s*", entry)
            assert pinned, entry
            found[canonicalize_name(pinned[1])] = pinned[2]
    return found


def test_the_libraries_are_locked_by_hash_as_the_project_names_them() -> None:
    project = tomllib.loads((TREE / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for file, texts in ((LOCK, project["dependencies"]), (DEV_LOCK, project["dependencies"] + extras["test"] + extras["dev"])):
        versions = locked(file)
        for wanted in map(Requirement, texts):
            if wanted.name != project["name"]:
                version = versions.get(canonicalize_name(wanted.name), "none")
                assert wanted.specifier.contains(version, prereleases=True), (
                    f"{wanted}: {version} in {file.name}; scripts/lock mends it"
                )


def test_what_is_tested_is_what_is_packaged() -> None:
    assert locked(LOCK).items() <= locked(DEV_LOCK).items()
