"""The web workers: a gunicorn master that forks one aiohttp worker per core.

Forked by the nursery (``host.nursery``), with the listening socket. Rules:

- Every setting of gunicorn's comes from here: no configuration file, no variables of gunicorn's,
  no control socket.
- A worker needs no database to start: it answers 503 until there is one.
- What cannot work is found before the first worker is forked, and told in one line.
"""

from __future__ import annotations

import gc
import logging
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from gunicorn.app.base import BaseApplication
from gunicorn.errors import HaltServer
from gunicorn.glogging import Logger
from prometheus_client import multiprocess

from gatelog.config import Config
from gatelog.host.database import dsns
from gatelog.host.exporting import export_spans
from gatelog.host.logs import configure_logging
from gatelog.host.processes import dies_with_parent, name_process
from gatelog.hosting.app import create_app, make_runner
from gatelog.hosting.mount import application, find
from gatelog.hosting.server import raise_file_limit

WORKER_CLASS = "aiohttp.GunicornUVLoopWebWorker"
SILENT_WORKER_TIMEOUT_S = 30  # a worker whose event loop stands still this long is replaced
_MEMORY_BACKED = Path("/dev/shm")  # noqa: S108


class WorkerMaster(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's master process with the settings of this configuration."""

    def __init__(self, config: Config, listener: int) -> None:
        self._config = config
        self._listener = listener
        self._dsn = dsns(config).app
        self._hosted = find(config.app) if config.app else None
        super().__init__()

    def load_config(self) -> None:
        for name, value in gunicorn_settings(self._config, self._listener).items():
            self.cfg.set(name, value)

    def load(self) -> Callable[[], Awaitable[web.AppRunner]]:
        """What each worker calls, in its own event loop, to make its runner."""
        return self._make_runner

    async def _make_runner(self) -> web.AppRunner:
        export_spans()
        hosted = await application(self._hosted) if self._hosted is not None else ()
        runner = make_runner(create_app(self._config, self._dsn, hosted), self._config)
        # A full collection looks at everything that lives: 100,000 objects, 30 ms, often while an
        # export allocates. What is there now stays, and need not be looked at again.
        gc.collect()
        gc.freeze()
        return runner


class OneLineLog(Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's log as a part of ours, without tracebacks unless the level is debug."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True

    def exception(self, message: str, *arguments: Any, **options: Any) -> None:
        if self.error_log.isEnabledFor(logging.DEBUG):
            super().exception(message, *arguments, **options)
        else:
            error = sys.exception()
            self.error(f"{message}: %s: %s", *arguments, type(error).__name__, error)


def gunicorn_settings(config: Config, listener: int) -> dict[str, Any]:
    return {
        "bind": [f"fd://{listener}"],
        "workers": config.worker_count,
        "worker_class": WORKER_CLASS,
        "timeout": SILENT_WORKER_TIMEOUT_S,
        "graceful_timeout": int(config.shutdown_timeout_s) + 5,
        "control_socket_disable": True,
        "errorlog": "-",
        "logger_class": OneLineLog,
        "loglevel": "debug" if config.log_level == "debug" else "warning",
        "proc_name": "gatelog",
        "post_fork": _post_fork,
        "child_exit": _child_exit,
        # the workers' heartbeat must not wait for a disk
        "worker_tmp_dir": str(_MEMORY_BACKED) if _MEMORY_BACKED.is_dir() else None,
    }


def _post_fork(arbiter: Any, worker: Any) -> None:
    """A worker whose master is killed finishes its requests and ends.

    Until a worker has handlers of its own it has the master's, which only note a signal: a stop
    that comes in between would be lost, and the worker killed after the whole grace period.
    """
    dies_with_parent(signal.SIGTERM, arbiter.pid)()
    name_process("gate:worker")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    while not arbiter.SIG_QUEUE.empty():
        if arbiter.SIG_QUEUE.get_nowait() == signal.SIGTERM:
            sys.exit(0)


def _child_exit(_: Any, worker: Any) -> None:
    """What a worker that has ended counted stays; how things stood in it does not."""
    multiprocess.mark_process_dead(worker.pid)


def run(config: Config, listener: int) -> None:
    """Be gunicorn's master until SIGTERM. Raises GatelogError for what cannot work."""
    configure_logging(config)
    raise_file_limit(config)
    try:
        WorkerMaster(config, listener).run()
    except HaltServer as halt:  # one more worker that did not boot, while gunicorn was ending
        sys.exit(halt.exit_status)
