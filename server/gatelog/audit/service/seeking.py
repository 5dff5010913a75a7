"""What is personal in a question, as the blind indexes know it."""

from __future__ import annotations

from gatelog.audit.rules.shown import AuditFilter
from gatelog.audit.store.queries import Sought
from gatelog.privacy.rules import reach_of
from gatelog.privacy.service.personal import PersonalData


async def seek(personal: PersonalData, wanted: AuditFilter) -> Sought:
    """What stands for the question's address or network, and for its login name.

    Raises KeysUnavailable when their key is not there.
    """
    login = None
    if wanted.login is not None:
        login = await personal.found_by("login", wanted.login)
    address = wanted.address
    if wanted.network is not None:
        reach = reach_of(wanted.network)
        if reach is not None:
            return Sought(reach, await personal.found_by("network", wanted.network), login)
        address = wanted.network.partition("/")[0]
    if address is not None:
        return Sought("address", await personal.address_index(address), login)
    return Sought(login=login)
