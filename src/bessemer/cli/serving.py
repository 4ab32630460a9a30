"""One server process from its parts: gateway, console, engines, supervisor. No torch here."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

from bessemer.app import models
from bessemer.app.adapters import NamedAdapter, Served, base_of, find_served
from bessemer.app.background import Background
from bessemer.app.batch_runner import BatchRunner
from bessemer.app.catalog import DEFAULT_MODEL
from bessemer.app.engine_memory import kv_limit
from bessemer.app.engine_runtime import need_engine, need_runtime
from bessemer.app.engines import EnginePool, worker_command
from bessemer.app.eval_runner import EvalRunner
from bessemer.app.files import sweep
from bessemer.app.fine_tuning_desk import FineTuningDesk
from bessemer.app.keys import KeyRing
from bessemer.app.latencies import Latencies
from bessemer.app.metering import Meter
from bessemer.app.models import NamedModel
from bessemer.app.permitted_serving import PermittedServing
from bessemer.app.platform import Platform
from bessemer.app.pool_serving import PoolServing
from bessemer.app.pull import Say
from bessemer.app.quantizing import Wanted, copy_in
from bessemer.app.recording import Recorder, prune
from bessemer.app.stored_completions import Keeper
from bessemer.app.supervisor import Supervisor, thread_budget
from bessemer.app.target_serving import TargetServing
from bessemer.app.uploads import sweep as sweep_uploads
from bessemer.console.pages import build as build_console
from bessemer.console.sessions import Sessions, login_url, token_folder
from bessemer.core.errors import InvalidInput
from bessemer.gateway.answerer import GatewayAnswerer
from bessemer.gateway.asgi import build as build_gateway
from bessemer.gateway.resources import resource_routes
from bessemer.gateway.server import Server, bind, url_of

REFRESH_S = 1.0

_log = logging.getLogger(__name__)


class Service:
    """A bound, not yet running server on a home that the caller has locked.

    Args:
        memory_bytes: for all engines together; None for no limit.
        sleep_after_s: how long an engine idles before it is unloaded; None for ever.
        preload: models to load at once; others load when they are first asked for.
        guesses: who proposes tokens to engines: `off`, `ngram`, or a draft model.
        deterministic: answers depend on model and request alone, and a record of each is kept.
        device: where engines compute: `cpu`, `cuda`, or `auto`.
        started: called with the base URL and a one-time login URL once requests are answered.

    Raises:
        PortInUse: before anything else is touched.
        InvalidInput: `targets.toml` cannot be read.
    """

    def __init__(
        self,
        platform: Platform,
        *,
        host: str,
        port: int,
        threads: int,
        memory_bytes: int | None = None,
        sleep_after_s: float | None = None,
        preload: Sequence[NamedModel] = (),
        hosts: Sequence[str] = (),
        guesses: str | NamedModel = "ngram",
        deterministic: bool = False,
        device: str = "cpu",
        started: Callable[[str, str], None],
    ) -> None:
        self._platform = platform
        self._preload = preload
        self._threads = threads
        draft = guesses if isinstance(guesses, NamedModel) else None
        command = partial(
            worker_command,
            guesses=guesses.path if isinstance(guesses, NamedModel) else guesses,
            deterministic=deterministic,
            kv_bytes=kv_limit(memory_bytes),
            device=device,
        )
        self._pool = EnginePool(
            platform,
            threads,
            command=command,
            memory_bytes=memory_bytes,
            sleep_after_s=sleep_after_s,
            draft=draft,
        )
        self._recorder = Recorder(platform) if deterministic else None
        prune(platform)
        sweep(platform)
        sweep_uploads(platform)
        self._keyring = KeyRing(platform)
        self._supervisor = Supervisor(platform)
        self._desk = FineTuningDesk(platform)
        here = PoolServing(platform, self._pool, self._recorder)
        # What a partner answers cannot be proved here.
        self._partners = None if deterministic else TargetServing(platform, here)
        serving = PermittedServing(self._partners or here, self._keyring)
        self._meter = Meter.of(platform)
        self._evals = EvalRunner(platform, serving, meter=self._meter)
        latencies = Latencies()
        self._background = Background(platform, serving, self._meter, latencies)
        keeper = Keeper(platform)
        answerer = GatewayAnswerer(platform, serving, keeper)
        self._batches = BatchRunner(platform, answerer, self._meter)
        folder = token_folder(platform.home)
        console = build_console(platform, serving, Sessions(folder), hosts=hosts, meter=self._meter)
        sock = bind(host, port)
        own = ipaddress.ip_address(sock.getsockname()[0]).is_loopback
        app = build_gateway(
            serving,
            self._keyring,
            meter=self._meter,
            routes=resource_routes(
                platform,
                serving=serving,
                meter=self._meter,
                background=self._background,
                latencies=latencies,
            ),
            other=console,
            open_metrics=own,
            keeper=keeper,
            latencies=latencies,
        )

        def when_started(url: str) -> None:
            platform.home.note_holder(pid=os.getpid(), url=url)
            started(url, login_url(url, folder))

        self.url = url_of(sock)
        self._server = Server(app, sock, lifespan=self._running(), started=when_started)

    def run(self) -> None:
        """Serve until Ctrl-C, SIGTERM or `stop`."""
        logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
        self._server.run()

    def stop(self) -> None:
        """May be called from any thread."""
        self._server.stop()

    @contextlib.asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        """Engines and supervisor live on the server's event loop, from before to after it."""
        for model in self._preload:
            self._pool.load(model)
        await self._background.start()
        await self._supervisor.start()
        await self._batches.start()
        await self._evals.start()
        await self._desk.start()
        refreshing = asyncio.create_task(self._each_second())
        try:
            yield
        finally:
            refreshing.cancel()
            await asyncio.wait([refreshing])
            # Before the engines, whose end they would take for a fault of the items.
            await self._batches.close()
            await self._evals.close()
            await self._desk.close()
            await self._background.close()
            await self._supervisor.close()
            if self._partners is not None:
                await self._partners.close()
            await self._pool.close()
            if self._recorder is not None:
                await self._recorder.close()
            await asyncio.to_thread(self._meter.close)

    async def _each_second(self) -> None:
        """Learn of new and revoked keys and of rate limits; share the cores between engines and a
        run; put idle engines to sleep."""
        while True:
            await asyncio.sleep(REFRESH_S)
            self._pool.set_threads(self._engine_threads())
            await self._pool.rest()
            try:
                await asyncio.to_thread(self._keyring.refresh)
                await asyncio.to_thread(self._meter.refresh)
            except Exception:
                # A locked database passes. Until then what was read a second ago holds.
                _log.exception("could not read keys and limits; trying again")

    def _engine_threads(self) -> int:
        """All cores while nothing trains. Two thread pools on the same cores wait for each
        other's spinning threads, so while a run goes the engines get what it leaves."""
        if all(run.state == "queued" for run in self._supervisor.status()):
            return self._threads
        return max(1, self._threads - thread_budget())


def models_to_load(
    platform: Platform,
    names: Sequence[str],
    precision: Wanted | None = None,
    say: Say = lambda _: None,
) -> list[NamedModel]:
    """The named ones; without names the default model, else the first there is, else none.

    Of an adapter its base, which loads the adapter in milliseconds when it is asked for. With a
    precision their copies in it, which are made where they are not here.

    Raises:
        Missing: what computes one is not installed.
        InvalidInput: a precision for an adapter.
        BessemerError: as `find_served` and `copy_in`.
    """
    principal = platform.local_principal()
    if names:
        served = [find_served(platform, principal, name) for name in names]
    else:
        known = models.list_models(platform, principal)
        default = [model for model in known if model.name == DEFAULT_MODEL]
        served = [*(default or known[:1])]
    if precision is None:
        found = [base_of(each) for each in served]
    else:
        need_runtime(precision)
        found = [_copy_in(platform, each, precision, say) for each in served]
    for model in found:
        need_engine(model)
    return found


def _copy_in(platform: Platform, served: Served, precision: Wanted, say: Say) -> NamedModel:
    if isinstance(served, NamedAdapter):
        raise InvalidInput(
            f"{served.name} is an adapter, which is computed over {served.base.name} as it is",
            next_step=f"bessemer merge {served.base.name} {served.name}, and serve that in"
            f" {precision}",
        )
    return copy_in(platform, platform.local_principal(), served, precision, say)


def guesses_of(platform: Platform, said: str) -> str | NamedModel:
    """`off`, `ngram`, or the model of this name.

    Raises:
        NotFound: there is none.
    """
    if said in ("off", "ngram"):
        return said
    return models.find_model(platform, platform.local_principal(), said)
