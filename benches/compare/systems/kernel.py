"""File systems of the kernel."""

import os

from ..process import run
from ..scratch import is_mounted
from .base import Promise, System, umount


class Native(System):
    key = "native"
    title = "native"
    options = "a directory of the host's file system, as Docker's local driver gives it"
    promise = Promise(
        fsync="survives power loss",
        crash="ext4: metadata consistent, data of files not synced may be missing",
        damage="not noticed",
        secret="nothing",
        limit="none (project quotas on some hosts)",
    )

    def version(self):
        return "Linux " + os.uname().release

    @property
    def dir(self):
        return self.store

    def is_mounted(self):
        return True


class Loop(System):
    """A file system in a sparse file, behind a loop device."""

    image_bytes = 24 << 30
    mkfs = ()
    fs = ""

    @property
    def image(self):
        return self.store / "image"

    def make(self):
        with open(self.image, "wb") as image:
            image.truncate(self.image_bytes)
        run(*self.mkfs, self.image)

    def mount(self):
        # Direct I/O: without it the host would cache, and write late, everything once more.
        device = run("losetup", "--find", "--show", "--direct-io=on", self.image).strip()
        try:
            run("mount", "-t", self.fs, device, self.dir)
        finally:
            # The device goes with its last user.
            run("losetup", "--detach", device)

    def unmount(self):
        if is_mounted(self.dir):
            umount(self.dir)

    def store_bytes(self):
        run("fstrim", self.dir)
        return super().store_bytes()

    def version(self):
        return "Linux " + os.uname().release


class Xfs(Loop):
    key = "xfs"
    title = "xfs loop"
    programs = ("mkfs.xfs", "losetup")
    mkfs = ("mkfs.xfs", "-q", "-m", "reflink=1")
    fs = "xfs"
    options = "mkfs.xfs defaults; sparse image on the same disk, loop device with direct I/O"
    promise = Promise(
        fsync="survives power loss",
        crash="metadata consistent, data of files not synced may be missing",
        damage="metadata checksummed, data not",
        secret="nothing",
        limit="the image's size; project quotas",
    )


class Btrfs(Loop):
    key = "btrfs"
    title = "btrfs loop"
    programs = ("mkfs.btrfs", "losetup")
    mkfs = ("mkfs.btrfs", "-q")
    fs = "btrfs"
    options = "mkfs.btrfs defaults; sparse image on the same disk, loop device with direct I/O"
    promise = Promise(
        fsync="survives power loss",
        crash="consistent; data of files not synced may be missing",
        damage="checksums: an error",
        secret="nothing",
        limit="the image's size; qgroups",
    )
