"""The page about the requirements is what the tests say, and the tests are what there is to say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests.asvs.catalogue import SECTIONS, Requirement, name_of_test, requirements

ROOT = Path(__file__).parents[2]


def load() -> ModuleType:
    """The program that makes the page."""
    spec = importlib.util.spec_from_file_location("make_asvs", ROOT / "docs" / "make_asvs.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


make_asvs = load()


def test_the_page_is_what_the_tests_say() -> None:
    assert (ROOT / "docs" / "asvs.md").read_text() == make_asvs.page()


def test_every_test_is_of_a_requirement() -> None:
    assert set(make_asvs.tests()) <= {name_of_test(number) for number in requirements()}


def test_every_number_is_there_once() -> None:
    listed = [found for section in SECTIONS for found in section.requirements]
    assert len(listed) == len(requirements())
    for section in SECTIONS:
        assert all(found.id.startswith(section.id) for found in section.requirements)


@pytest.mark.parametrize("requirement", requirements().values(), ids=lambda found: found.id)
def test_a_requirement_has_a_test_or_says_why_not(requirement: Requirement) -> None:
    test = make_asvs.tests().get(name_of_test(requirement.id))
    assert bool(test) + bool(requirement.absent) <= 1
    assert test or requirement.planned or requirement.absent
    assert not (requirement.planned and requirement.absent)
    for told in (requirement.asks, requirement.absent, test.says if test else ""):
        assert not told or told.endswith((".", ".)")), told
    assert test is None or len(test.says) > 40
