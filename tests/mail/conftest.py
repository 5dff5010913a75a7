"""Accounts with a mail server beside them, as the tests of accounts have them."""

from tests.accounts.conftest import inbox, opened

__all__ = ["inbox", "opened"]
