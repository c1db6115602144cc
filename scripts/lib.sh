# What the scripts share. Sourced, not run.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n== %s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

need_root() {
    [ "$(id -u)" = 0 ] || die "this mounts file systems and installs packages: run it as root"
    [ -e /dev/fuse ] || modprobe fuse 2>/dev/null || true
    [ -e /dev/fuse ] || die "/dev/fuse is missing: load FUSE with 'modprobe fuse'"
}

# install_packages PACKAGE...: installs those that are missing, from Debian.
install_packages() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    command -v apt-get >/dev/null || die "please install: ${missing[*]}"
    say "Installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # PostgreSQL's package must not start a server of its own.
    mkdir -p /etc/postgresql-common
    [ -e /etc/postgresql-common/createcluster.conf ] ||
        echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf
    # Nor must Docker's, or anybody else's.
    local policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' > $policy
        chmod 755 $policy
        trap "rm -f $policy" RETURN
    fi
    apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
}

need_rust() {
    # rustup puts cargo where a root shell may not look.
    command -v cargo >/dev/null || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    command -v cargo >/dev/null || die "cargo is missing: install Rust 1.88 or later, from https://rustup.rs"
    # SQLite is compiled from C.
    install_packages gcc libc6-dev
}

# install_tool CRATE VERSION [OPTION...]: installs a program from crates.io into target/tools, in exactly this version. Options are
# cargo's.
install_tool() {
    local crate=$1 version=$2
    shift 2
    # Some programs write v1.2.3.
    case "$("target/tools/bin/$crate" --version 2>/dev/null)" in "$crate $version" | "$crate v$version") return ;; esac
    say "Installing $crate $version"
    # A linter's or a sanitizer's flags are not for the tools.
    env -u RUSTFLAGS cargo install --quiet --locked --force --root target/tools --version "=$version" "$@" "$crate"
}

# install_wheel PACKAGE VERSION PROGRAM: installs a program from PyPI into target/tools/PROGRAM, in exactly this version. Fails
# where that cannot be had; what runs it says so.
install_wheel() {
    local into=target/tools/$3
    [ "$(cat "$into/installed" 2>/dev/null)" = "$1 $2" ] && [ -x "$into/bin/$3" ] && return
    say "Installing $1 $2"
    rm -rf "$into"
    python3 -m venv "$into" &&
        "$into/bin/pip" install --quiet --disable-pip-version-check --no-deps --only-binary :all: "$1==$2" &&
        echo "$1 $2" > "$into/installed"
}

# The suites of others that the tests run. docs/conformance.md has the results of these versions.
install_suites() {
    install_tool pjdfstest 0.2.2
    install_tool fsx 0.3.2
}
