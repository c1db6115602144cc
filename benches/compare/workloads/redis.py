"""Redis, that keeps a log of every change."""

import os
import shutil

from ..measure import Refused
from ..process import run
from .base import Job, Row
from .daemon import Daemon, figure, is_answered


class Redis(Daemon):
    title = "Redis"

    def command(self):
        # The answer to a change waits for the disk, as durable queues and locks are run.
        settings = {"port": 0, "unixsocket": self.socket, "dir": self.data, "appendonly": "yes", "appendfsync": "always"}
        return ("redis-server", *(word for name, value in settings.items() for word in (f"--{name}", value)), "--save", "")

    def is_ready(self):
        return is_answered("redis-cli", "-s", self.socket, "ping")

    def benchmark(self, requests):
        return run("redis-benchmark", "-s", self.socket, "-t", "set", "-c", 4, "-n", requests, "--csv", timeout=590)


def _clear(place):
    if not shutil.which("redis-server"):
        raise Refused("not installed: redis-server")
    place.remove("redis")
    os.mkdir(place.path("redis"))


def _set(place):
    with Redis(place.dir / "redis") as server:
        said = server.benchmark(place.sizes.redis_requests)
    return {"db.redis": figure(r'^"SET","([\d.]+)"', said, "redis-benchmark")}


JOB = Job((Row("db.redis", "Redis, appendfsync=always, SET, 4 clients", "requests/s", True),), _set, prepare=_clear)
