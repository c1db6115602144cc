"""Other encrypting file systems in user space, from Debian."""

from ..process import run
from .base import Promise, Served

PASSWORD = "benchmark"


class Gocryptfs(Served):
    key = "gocryptfs"
    title = "gocryptfs"
    programs = ("gocryptfs",)
    options = (
        "-kernel_cache; AES-GCM, chosen by itself (`gocryptfs -speed`); O_DIRECT passes by the cache of the mount, "
        "not by the host's"
    )
    promise = Promise(
        fsync="survives power loss if the host's does",
        crash="the host's, file by file; a block half written is unreadable",
        damage="authenticated by block: an error; old blocks of the same file can be put back",
        secret="contents, names; not sizes, tree, times",
        limit="none",
    )

    def make(self):
        # The password only guards the mount; a cheap one mounts fast.
        run("gocryptfs", "-q", "-init", "-scryptn", 10, self.store, stdin=PASSWORD + "\n")

    def command(self):
        return ("gocryptfs", "-fg", "-q", "-nosyslog", "-kernel_cache", "-allow_other", self.store, self.dir)

    def secret(self):
        return PASSWORD + "\n"

    def version(self):
        return run("gocryptfs", "-version").split(";")[0].strip()


class Cryfs(Served):
    key = "cryfs"
    title = "CryFS"
    programs = ("cryfs",)
    options = (
        "-o noatime; xchacha20-poly1305 and blocks of 16 KiB, its defaults; O_DIRECT passes by the cache of the mount, "
        "not by the host's"
    )
    fsync_reaches_disk = False
    promise = Promise(
        fsync="calls no sync of the host: what was synced can be lost",
        crash="none: directories can be lost",
        damage="authenticated: an error",
        secret="contents, names, sizes, tree",
        limit="none",
    )
    # Its key derivation takes its time, and cannot be told otherwise.
    patience_s = 120

    def command(self):
        return ("cryfs", "-f", "-o", "noatime", self.store, self.dir)

    def environment(self):
        state = str(self.home / "state")
        return {"CRYFS_FRONTEND": "noninteractive", "CRYFS_NO_UPDATE_CHECK": "true", "CRYFS_LOCAL_STATE_DIR": state}

    def secret(self):
        return PASSWORD + "\n"

    def version(self):
        return run("cryfs", "--version").splitlines()[0].replace("Version ", "")


class Securefs(Served):
    key = "securefs"
    title = "securefs"
    programs = ("securefs",)
    options = 'format 4 ("lite", the fast one), --attr-timeout 3600'
    promise = Promise(
        fsync="survives power loss if the host's does",
        crash="the host's, file by file; a block half written is unreadable",
        damage="authenticated by block: an error",
        secret="contents, names; not sizes, tree, times",
        limit="none",
    )

    def make(self):
        key_words = ("--pbkdf", "pkcs5-pbkdf2-hmac-sha256", "--rounds", 1, "--pass", PASSWORD)
        run("securefs", "create", "--format", 4, *key_words, self.store)

    def command(self):
        return ("securefs", "mount", "--attr-timeout", 3600, "--pass", PASSWORD, self.store, self.dir)

    def version(self):
        packaged = run("dpkg-query", "--show", "--showformat=${Version}", "securefs", good=(0, 1))
        return f"securefs {packaged.split('+')[0]}"
