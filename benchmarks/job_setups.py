"""Who puts jobs into a queue and works them off: natsmesh, its floor and its peers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from benchmarks import durable
from benchmarks.processes import HOST, Program, Stage, script

WORKER = "benchmarks.programs.jobs_natsmesh:Jobs"
FLOOR = (
    "a work queue fetched by hundreds; the result is published to a stream; then the job is acknowledged. Nothing else"
)
FASTSTREAM = "push subscriber for one job at a time, pull for a hundred; the handler publishes the result to a stream"


class JobSetup(ABC):
    """A broker, one worker process, one client process."""

    name: str
    title: str
    note: str
    """How it is run, for the table."""

    def missing(self) -> str | None:
        """Why this setup cannot run here, saying what to install; None when it can. May install its own packages."""
        return None

    @abstractmethod
    def start(self, stage: Stage, at_once: int) -> Program:
        """Starts everything, the worker with so many jobs at once; returns the client."""

    def versions(self) -> dict[str, str]:
        """Versions of what is not installed in the interpreter that runs this."""
        return {}


def client(stage: Stage, command: list[str], env: dict[str, str] | None = None) -> Program:
    """The client, by `python -m benchmarks.programs.jobs_client` and what follows."""
    return stage.spawn("client", command, env=env, interactive=True)


class NatsMeshJobs(JobSetup):
    name = "natsmesh"
    title = "natsmesh"
    note = "`natsmesh serve`; stub and `Operations.WaitOperation`; the outcome is a record in a key-value bucket"

    def start(self, stage: Stage, at_once: int) -> Program:
        url = durable.start_jetstream(stage)
        env = {"PYTHONPATH": str(durable.generated(stage))}
        stage.spawn("back-end", [script("natsmesh"), "serve", WORKER, "--nats", url], env=env)
        return client(stage, durable.python("jobs_client", "jobs_natsmesh", url, at_once), env)


@dataclass(frozen=True)
class NatsPyJobs(JobSetup):
    """Programs of ours with `nats-py`, alone or below FastStream."""

    name: str
    title: str
    module: str
    note: str

    def start(self, stage: Stage, at_once: int) -> Program:
        url = durable.start_jetstream(stage)
        stage.spawn("back-end", durable.python(self.module, url, at_once))
        return client(stage, durable.python("jobs_client", self.module, url))


class TaskiqJobs(JobSetup):
    name = "taskiq"
    title = "taskiq-nats"
    note = "`taskiq worker`, pull broker on a work queue, fetches 100; the result is an object in the object store"

    def start(self, stage: Stage, at_once: int) -> Program:
        env = {"BENCH_URL": durable.start_jetstream(stage), "BENCH_AT_ONCE": str(at_once)}
        options = [
            "--workers",
            "1",
            "--max-async-tasks",
            str(at_once),
            "--max-prefetch",
            "100",
            "--log-level",
            "WARNING",
        ]
        command = [script("taskiq"), "worker", "benchmarks.programs.jobs_taskiq:broker", *options]
        stage.spawn("back-end", command, env=env)
        return client(stage, durable.python("jobs_client", "jobs_taskiq"), env)


class ArqJobs(JobSetup):
    name = "arq"
    title = "arq"
    note = "looks at its queue every 0.1 ms instead of 500 (no further gain below); queue and results in Redis"

    def missing(self) -> str | None:
        return durable.redis_missing() or durable.peer_missing("arq")

    def start(self, stage: Stage, at_once: int) -> Program:
        port = str(durable.start_redis(stage))
        python = str(durable.peer_python("arq"))
        stage.spawn("back-end", [python, "-m", "benchmarks.programs.jobs_arq", port, str(at_once)])
        return client(stage, [python, "-m", "benchmarks.programs.jobs_client", "jobs_arq", port])

    def versions(self) -> dict[str, str]:
        return durable.peer_versions("arq", "arq", "redis")


class CeleryJobs(JobSetup):
    name = "celery"
    title = "Celery"
    note = "`acks_late`; pool `solo` for one job at a time, `threads` for a hundred; queue and results in Redis"

    def missing(self) -> str | None:
        return durable.redis_missing() or durable.peer_missing("celery")

    def start(self, stage: Stage, at_once: int) -> Program:
        env = {"BENCH_URL": f"redis://{HOST}:{durable.start_redis(stage)}"}
        python = str(durable.peer_python("celery"))
        pool = ["--pool", "solo"] if at_once == 1 else ["--pool", "threads", "--concurrency", str(at_once)]
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"]
        app = ["--app", "benchmarks.programs.jobs_celery"]
        stage.spawn("back-end", [python, "-m", "celery", *app, "worker", *pool, *quiet], env=env)
        return client(stage, [python, "-m", "benchmarks.programs.jobs_client", "jobs_celery"], env)

    def versions(self) -> dict[str, str]:
        return durable.peer_versions("celery", "celery", "kombu")


ALL: tuple[JobSetup, ...] = (
    NatsMeshJobs(),
    NatsPyJobs("floor", "floor: nats-py by hand", "jobs_floor", FLOOR),
    NatsPyJobs("faststream", "FastStream", "jobs_faststream", FASTSTREAM),
    TaskiqJobs(),
    ArqJobs(),
    CeleryJobs(),
)
