"""What goes into the image is all that the package needs, in versions that it takes."""

from __future__ import annotations

import re
from configparser import ConfigParser
from importlib.metadata import requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.stack.service import ROOT

LOCKED = re.compile(r"^(\S+)==(\S+) ", re.MULTILINE)


def needed(requirement: Requirement) -> list[Requirement]:
    """What a package needs in turn, where that is Linux."""
    found = [Requirement(line) for line in requires(requirement.name) or ()]
    extras = requirement.extras or {""}
    return [
        each
        for each in found
        if each.marker is None or any(each.marker.evaluate({"extra": e}) for e in extras)
    ]


def test_the_image_gets_all_that_the_package_needs() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options"]["install_requires"].splitlines()
    lock = (ROOT / "docker" / "requirements.lock").read_text()
    locked = {canonicalize_name(name): version for name, version in LOCKED.findall(lock)}
    to_see = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert len(to_see) > 10
    seen = set()
    while to_see:
        requirement = to_see.pop()
        name = canonicalize_name(requirement.name)
        assert name in locked, f"{name} is not in docker/requirements.lock: run docker/lock.py"
        assert requirement.specifier.contains(locked[name]), f"{requirement}, not {locked[name]}"
        if str(requirement) not in seen:
            seen.add(str(requirement))
            to_see += needed(requirement)
