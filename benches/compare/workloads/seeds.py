"""The commands that guides to container volumes tell people to try, word for word: the volume is on /data."""

import re

from ..measure import Refused
from ..process import Failed, run
from .base import Family, Job, Row

# A root directory with the host's programs and the volume on /data: what a container would see.
_CONTAINER = r"""
set -e
root=$1 data=$2
shift 2
mount -t tmpfs tmpfs "$root"
mkdir "$root"/usr "$root"/dev "$root"/proc "$root"/tmp "$root"/data
for name in bin sbin lib lib64; do [ ! -e "/$name" ] || ln -s "usr/$name" "$root/$name"; done
mount --rbind /usr "$root/usr"
mount --rbind /dev "$root/dev"
mount --rbind /proc "$root/proc"
mount --bind "$data" "$root/data"
exec chroot "$root" "$@"
"""


def in_container(place, command):
    """Runs a shell command where the place is /data."""
    root = place.host.dir / "container"
    root.mkdir(exist_ok=True)
    try:
        return run(
            "unshare", "--mount", "sh", "-c", _CONTAINER, "sh", root, place.dir, "sh", "-c", command, timeout=590
        )
    except Failed as e:
        raise Refused("O_DIRECT refused (EINVAL)" if "Invalid argument" in str(e) else str(e)) from e


def _dd(command):
    """MB/s, as dd says it."""

    def work(place):
        said = in_container(place, command(place.sizes))
        done = re.search(r"(\d+) bytes .*copied, ([\d.e-]+) s", said)
        if not done:
            raise Refused(f"dd said: {said.strip()}")
        return int(done[1]) / 1e6 / float(done[2])

    return work


def _dd_job(key, title, command, **options):
    row = Row(key, title, "MB/s", True)
    work = _dd(command)
    return Job((row,), lambda place: {key: work(place)}, **options)


_BYTES = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "B": 1}


def pasted_fio(sizes):
    return (
        "fio --name=random-write --ioengine=libaio --rw=randwrite "
        f"--bs=4k --size={sizes.pasted_fio_size} --numjobs=4 --runtime={sizes.pasted_fio_s} --time_based "
        "--filename=/data/test"
    )


def _fio(place):
    said = in_container(place, pasted_fio(place.sizes))
    found = re.search(r"WRITE: bw=([\d.]+)(B|KiB|MiB|GiB)/s", said)
    if not found:
        raise Refused(f"fio said: {said.strip().splitlines()[-1]}")
    return {"seeds.fio": float(found[1]) * _BYTES[found[2]] / 4096}


FAMILY = Family(
    "seeds",
    "The commands of the guides, word for word",
    (
        _dd_job(
            "seeds.dd100",
            "dd if=/dev/zero of=/data/test bs=1M count=100 oflag=direct",
            lambda sizes: f"dd if=/dev/zero of=/data/test bs=1M count={sizes.dd_short_blocks} oflag=direct",
            finish=lambda place: place.remove("test"),
        ),
        _dd_job(
            "seeds.dd1000",
            "dd if=/dev/zero of=/data/test.img bs=1M count=1000 oflag=direct",
            lambda sizes: f"dd if=/dev/zero of=/data/test.img bs=1M count={sizes.dd_long_blocks} oflag=direct",
            leaves="test.img",
        ),
        _dd_job(
            "seeds.ddread",
            "dd if=/data/test.img of=/dev/null bs=1M iflag=direct",
            lambda sizes: "dd if=/data/test.img of=/dev/null bs=1M iflag=direct",
            needs="test.img",
            finish=lambda place: place.remove("test.img"),
        ),
        Job(
            (Row("seeds.fio", "fio ... --rw=randwrite --bs=4k --size=1g --numjobs=4 --time_based", "IOPS", True),),
            _fio,
            finish=lambda place: place.remove("test"),
        ),
    ),
)
