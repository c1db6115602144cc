"""What is done with source trees and packages."""

import os
import random

from ..process import run
from .base import Family, Job, Row, timed

GIT_ENV = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
GIT = ("git", "-c", "safe.directory=*", "-c", "gc.auto=0", "-c", "maintenance.auto=false")


def _command(key, *words, times=1, good=(0,)):
    """A job's work: seconds that a program takes in the place's directory; the mean of `times`, for short ones."""

    def work(place):
        def once():
            run(*[word.format(material=place.host.material) for word in words], cwd=place.dir, good=good, env=GIT_ENV)

        return {key: timed(lambda: [once() for _ in range(times)]) / times}

    return work


def _untar(place):
    os.mkdir(place.path("tree"))
    archive = place.host.material / "tree.tar"
    seconds = timed(lambda: run("tar", "xf", archive, cwd=place.path("tree"), timeout=590))
    drain_s = timed(place.drain)
    return {"tree.untar": seconds, "tree.untar.drained": seconds + drain_s}


def _walk(place):
    run("grep", "-rlF", "no such words in it", "tree", cwd=place.dir, good=(0, 1))
    run("ls", "-lR", "tree", cwd=place.dir)


def _status_once(place):
    run(*GIT, "-C", "clone", "status", cwd=place.dir, env=GIT_ENV)


def npm_files(count):
    """Directories and files as a package manager lays them out: deep, many, small. Pairs of path and size."""
    choose = random.Random(7)
    made = 0
    package = 0
    while made < count:
        top = f"node_modules/package-{package}"
        package += 1
        inner = [top, f"{top}/lib", f"{top}/lib/internal", f"{top}/node_modules/dependency-{package % 17}/dist/esm"]
        for name in ("package.json", "README.md", "LICENSE"):
            yield f"{top}/{name}", choose.randrange(300, 6000)
            made += 1
        for i in range(choose.randrange(5, 25)):
            yield f"{choose.choice(inner)}/module-{i}.js", choose.randrange(100, 8000)
            made += 1


def install_packages(place):
    """Seconds that it takes to lay out `place.sizes.npm_files` files as a package manager does."""
    files = list(npm_files(place.sizes.npm_files))
    data = os.urandom(8192)

    def install():
        made = set()
        for name, size in files:
            path = place.path(name)
            parent = os.path.dirname(path)
            if parent not in made:
                os.makedirs(parent, exist_ok=True)
                made.add(parent)
            fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644)
            os.write(fd, data[:size])
            os.close(fd)

    return timed(install)


def _npm(place):
    return {"tree.npm": install_packages(place)}


def _s(key, title):
    return Row(key, title, "s")


def _job(key, title, *words, times=1, good=(0,), **options):
    return Job((_s(key, title),), _command(key, *words, times=times, good=good), **options)


_GREP = ("grep", "-rlF", "no such words in it", "tree")

FAMILY = Family(
    "tree",
    "Source trees and packages",
    (
        Job(
            (_s("tree.untar", "untar"), _s("tree.untar.drained", "the same, with a final sync to the disk")),
            _untar,
            prepare=lambda place: place.remove("tree"),
            leaves="tree",
        ),
        _job("tree.grep.cold", "grep -r, cold", *_GREP, good=(0, 1), needs="tree", cold=True),
        _job("tree.grep.warm", "grep -r, warm", *_GREP, good=(0, 1), needs="tree", prepare=_walk, times=3),
        _job("tree.find.warm", "find, warm", "find", "tree", "-name", "*.x", needs="tree", prepare=_walk, times=3),
        _job("tree.ls.warm", "ls -lR, warm", "ls", "-lR", "tree", needs="tree", prepare=_walk, times=3),
        _job(
            "tree.cp",
            "cp -r",
            "cp",
            "-r",
            "tree",
            "copy",
            needs="tree",
            leaves="copy",
            prepare=lambda place: place.remove("copy"),
        ),
        _job("tree.rm", "rm -rf of the copy", "rm", "-rf", "copy", needs="copy"),
        _job(
            "tree.clone",
            "git clone",
            *GIT,
            "clone",
            "--quiet",
            "--no-local",
            "{material}/repository",
            "clone",
            prepare=lambda place: place.remove("clone"),
            leaves="clone",
        ),
        _job(
            "tree.status",
            "git status, warm",
            *GIT,
            "-C",
            "clone",
            "status",
            times=5,
            needs="clone",
            prepare=_status_once,
        ),
        Job(
            (_s("tree.npm", "npm-like install"),),
            _npm,
            prepare=lambda place: place.remove("node_modules"),
            leaves="node_modules",
        ),
        _job("tree.npm.rm", "rm -rf of it", "rm", "-rf", "node_modules", needs="node_modules"),
    ),
)
