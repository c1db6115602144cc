"""What the work begins with: an archive of sources, a repository, databases. Made once and kept."""

import os
import shutil
from pathlib import Path

from .process import Failed, run
from .workloads import mariadb, postgres
from .workloads.trees import GIT, GIT_ENV


# Goes up with what is made here, so that nothing of before is used.
_VERSION = 2


def _archive(into, directories):
    sources = sorted(Path("/usr/src").glob("linux-source-*.tar.xz"))
    if not sources:
        raise Failed("the kernel's source is missing: install linux-source")
    tree = into / "tree"
    tree.mkdir()
    # Anchored by the archive's top directory: `fs` must not match `tools/.../fs`.
    top = sources[-1].name.removesuffix(".tar.xz")
    patterns = [f"{top}/{name}" for name in directories]
    run("tar", "-C", tree, "-xJf", sources[-1], "--strip-components=1", *patterns, timeout=600)
    run("tar", "-C", tree, "-cf", into / "tree.tar", *sorted(os.listdir(tree)))


def _repository(into):
    (into / "tree").rename(into / "repository")
    git = (*GIT, "-c", "user.name=bench", "-c", "user.email=bench@localhost", "-C", into / "repository")
    run(*git, "init", "--quiet", env=GIT_ENV)
    run(*git, "add", "--all", "--force", env=GIT_ENV, timeout=600)
    run(*git, "commit", "--quiet", "--message", "sources", env=GIT_ENV)
    run(*git, "repack", "-a", "-d", "--quiet", env=GIT_ENV, timeout=600)


def _pack(into, name):
    run("tar", "-C", into, "-cf", into / f"{name}.tar", name)
    shutil.rmtree(into / name)


def _databases(into, scale):
    """Of those that are installed."""
    if postgres.programs():
        postgres.make(into / "pg", scale)
        _pack(into, "pg")
    if mariadb.is_installed():
        (into / "mariadb").mkdir()
        mariadb.make(into / "mariadb")
        _pack(into, "mariadb")


def make(top, sizes):
    """The directory with everything for work of this size, below `top`."""
    done = Path(top) / f"material-{sizes.name}-{_VERSION}"
    if done.exists():
        return done
    making = done.with_suffix(".making")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    print("Preparing a source tree, a repository and databases ...", flush=True)
    _archive(making, sizes.tree)
    _repository(making)
    _databases(making, sizes.pgbench_scale)
    making.rename(done)
    return done
