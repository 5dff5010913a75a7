"""Directories of tests: those of the test kit."""

from gatelog.testing.scratch import ENOUGH_BYTES, in_temporary_directory, scratch

__all__ = ["ENOUGH_BYTES", "in_temporary_directory", "scratch"]
