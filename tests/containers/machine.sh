# A machine of the tests (`machine.rs`): `bash machine.sh DISK NAME`. It prints the number of its first process, and lives as
# long as somebody holds the other end of the standard input; all its processes, mounts and control groups end with it.

set -eu
disk=$1 name=$2

hierarchies() { awk '/ - cgroup2? / { print $5 }' /proc/self/mountinfo; }

# A control group of its own, which is the root of all that it will see.
join() {
    local group
    for group in $(hierarchies); do
        mkdir -p "$group/$name"
        for file in cpuset.cpus cpuset.mems; do
            [ ! -e "$group/$file" ] || [ -s "$group/$name/$file" ] || cat "$group/$file" > "$group/$name/$file"
        done
        echo "$BASHPID" > "$group/$name/cgroup.procs"
    done
}

leave() {
    local group
    for group in $(hierarchies); do
        find "$group/$name" -depth -type d -exec rmdir {} \; 2>/dev/null || true
    done
}

# The file systems; runs in the new namespaces.
build() {
    local root=$disk/root dir line options
    mkdir -p "$disk"/{upper,work,root,lib,exchange}
    mount -t overlay overlay -o "lowerdir=/,upperdir=$disk/upper,workdir=$disk/work" "$root"
    mount -t proc proc "$root/proc"
    mount -t sysfs sysfs "$root/sys"
    # What a boot finds empty.
    mount -t tmpfs -o mode=755 tmpfs "$root/run"
    mount -t tmpfs tmpfs "$root/tmp"
    mount -t tmpfs -o mode=755 tmpfs "$root/dev"
    cp -a /dev/{null,zero,full,random,urandom,tty,fuse} "$root/dev/"
    mkdir "$root"/dev/{pts,shm,mqueue}
    mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
    mount -t tmpfs tmpfs "$root/dev/shm"
    ln -s pts/ptmx "$root/dev/ptmx"
    ln -s /proc/self/fd "$root/dev/fd"
    cat /proc/sys/kernel/random/uuid > "$root/run/boot-id"
    mount --bind "$root/run/boot-id" "$root/proc/sys/kernel/random/boot_id"
    # User namespaces may mount proc only where one can be seen that nothing is mounted on.
    mkdir "$root/run/proc"
    mount -t proc proc "$root/run/proc"
    # The same control groups as the host has, from the own one downwards.
    [ "$(stat -fc %T /sys/fs/cgroup)" != tmpfs ] || mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup"
    while read -r dir type options; do
        mkdir -p "$root$dir"
        mount -t "$type" -o "$options" cgroup "$root$dir"
    done < <(awk '/ - cgroup2? / { for (i = 7; $i != "-"; i++); print $5, $(i + 1), $(i + 3) }' /proc/self/mountinfo |
        sed -E 's/\b(memory_)?(recursiveprot|nsdelegate|localevents),?//g; s/,$//')
    # What lies on the disk itself, for overlays cannot be stacked at will. Nothing of the host's own shows through.
    for dir in docker containerd containers larder; do
        mkdir -p "$disk/lib/$dir" "$root/var/lib/$dir"
        mount --bind "$disk/lib/$dir" "$root/var/lib/$dir"
    done
    mkdir -p "$root/exchange"
    mount --bind "$disk/exchange" "$root/exchange"
    cd "$root"
    mkdir -p .host
    pivot_root . .host
    cd /
    umount -l /.host
    # As systemd makes it where it does not take itself for a container's.
    mount --make-rshared /
}

# Before the first boot: only what a test starts or installs is to run, and nothing that changes the kernel's settings, loads
# modules or looks for devices.
tame_systemd() {
    [ ! -e /etc/tamed ] || return 0
    : > /etc/tamed
    rm -rf /etc/systemd/system/*.wants /etc/systemd/system/*.requires
    local unit
    for unit in systemd-sysctl systemd-modules-load systemd-binfmt systemd-udevd systemd-random-seed systemd-networkd \
        systemd-resolved systemd-timesyncd systemd-logind systemd-tmpfiles-setup-dev getty@tty1 console-getty; do
        ln -sf /dev/null "/etc/systemd/system/$unit.service"
    done
    for unit in sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount sys-kernel-config.mount \
        dev-hugepages.mount getty.target; do
        ln -sf /dev/null "/etc/systemd/system/$unit"
    done
    : > /etc/fstab
    # Where the host is a container image itself, packages start no services.
    rm -f /usr/sbin/policy-rc.d
}

first_process() {
    # Our number as the host knows it: /proc is still the host's.
    local pid
    read -r pid _ < /proc/self/stat
    build
    tame_systemd
    echo "$pid"
    exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=multi-user.target \
        --show-status=no >/dev/null 2>&1 </dev/null
}

if [ "${3:-}" = inside ]; then
    first_process
fi

(
    join
    exec unshare --mount --pid --ipc --uts --cgroup --fork --kill-child --propagation private \
        bash "$0" "$disk" "$name" inside </dev/null
) &
machine=$!
while read -r _; do :; done
# It takes its first process with it, and that one all others.
disown $machine
kill -9 $machine 2>/dev/null || true # It may have ended by itself.
while kill -0 $machine 2>/dev/null; do sleep 0.02; done
for _ in {1..50}; do
    leave
    for group in $(hierarchies); do [ ! -e "$group/$name" ] || { sleep 0.1; continue 2; }; done
    break
done
