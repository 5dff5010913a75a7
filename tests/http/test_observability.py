"""The dashboard and the alerts that are shipped use metrics that exist, and the rules work."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest
from gatelog.config import Config
from gatelog.hosting.app import create_app

from tests.conftest import Dsns
from tests.mail.server import Inbox
from tests.serving import Service, serving

SHIPPED = Path(__file__).parents[2] / "docker" / "observability"


@pytest.mark.parametrize("name", ["alerts.yaml", "grafana/dashboards/gatelog.json"])
async def test_what_is_shipped_uses_metrics_that_exist(alice: Service, name: str) -> None:
    body = (await alice.get("/metrics")).body.decode()
    exist = set(re.findall(r"^# TYPE (gatelog_\w+)", body, re.MULTILINE))
    exist |= {f"{metric}{end}" for metric in exist for end in ("_bucket", "_count", "_sum")}
    # of a host with a replica, which this service has not
    exist |= {"gatelog_active_sessions", "gatelog_replica_position", "gatelog_replica_lag_seconds"}
    used = set(re.findall(r"\bgatelog_\w+", (SHIPPED / name).read_text()))
    assert used
    assert used <= exist


@pytest.mark.parametrize(
    "arguments", [("check", "rules", "alerts.yaml"), ("test", "rules", "alerts.test.yaml")]
)
def test_the_rules_pass_promtool(arguments: tuple[str, ...]) -> None:
    promtool = shutil.which("promtool")
    assert promtool, "Debian's package prometheus has it"
    checked = subprocess.run(
        [promtool, *arguments], cwd=SHIPPED, capture_output=True, timeout=60, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


async def test_no_lease_is_missed_where_none_is_wanted(config: Config, database: Dsns) -> None:
    """An alert that fires for ever is read by nobody."""
    for check, told in (("strict", False), ("replica", True)):
        own = msgspec.structs.replace(config, check=check)
        async with serving(create_app(own, database.app), own) as service:
            body = (await service.get("/metrics")).body
            assert (b"gatelog_lease_valid" in body) is told, check


async def test_every_metric_is_written_down_and_no_other(
    alice: Service, config: Config, database: Dsns
) -> None:
    page = (SHIPPED.parents[1] / "docs" / "metrics.md").read_text()
    mailing = Inbox().settings(config, "smtp://127.0.0.1:1")
    body = (await alice.get("/metrics")).body.decode()
    async with serving(create_app(mailing, database.app), mailing) as service:
        body += (await service.get("/metrics")).body.decode()
    exist = set(re.findall(r"^# TYPE (gatelog_\w+)", body, re.MULTILINE))
    exist = {name for name in exist if not name.endswith("_created")}
    short = {"gatelog_password_hashing_queue", "gatelog_password_hashing_refused_total"}
    named = set(re.findall(r"gatelog_\w+", page)) | short
    of_a_replica = {
        name for name in named if name.startswith(("gatelog_replica_", "gatelog_active"))
    }
    assert named - of_a_replica == exist - of_a_replica
