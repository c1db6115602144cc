//! Images of what the host has installed; no registry is needed.

use super::machine::Machine;
use std::sync::Mutex;

/// How images are made: Docker and Podman take the same commands.
fn import(machine: &Machine, engine: &str, dir: &str, settings: &str, names: &str) {
    machine.sh(&format!(
        "cd {dir}; first=; for name in {names}; do
             if [ -z \"$first\" ]; then tar -c . | {engine} import {settings} - $name >/dev/null; first=$name
             else {engine} tag $first $name; fi
         done"
    ));
}

const BUSYBOX: &str = "
    mkdir -p $I/{bin,etc,tmp,root,proc,sys,dev,usr/sbin}; chmod 1777 $I/tmp; ln -s ../bin $I/usr/bin
    cp /bin/busybox $I/bin/; for name in $(/bin/busybox --list); do [ -e $I/bin/$name ] || ln -s busybox $I/bin/$name; done
    printf 'root:x:0:0::/root:/bin/sh\\nwww:x:1000:1000::/:/bin/sh\\n' > $I/etc/passwd
    printf 'root:x:0:\\nwww:x:1000:\\n' > $I/etc/group\n";

/// BusyBox under the names that people use it by, and a web server's image with something to serve.
pub fn busybox(machine: &Machine, engine: &str) {
    machine.sh(&format!("I=/tmp/busybox; {BUSYBOX}"));
    import(machine, engine, "/tmp/busybox", "-c 'CMD [\"sh\"]'", "busybox alpine ubuntu:20.04");
    machine.sh("cd /tmp/busybox; mkdir -p usr/share/nginx/html/css app/data
         echo hello > usr/share/nginx/html/index.html; echo body > usr/share/nginx/html/css/style.css
         ln -s index.html usr/share/nginx/html/link; chmod 750 usr/share/nginx/html/css
         chown -R 1000:1000 usr/share/nginx; touch -d 2001-02-03 usr/share/nginx/html/index.html");
    import(
        machine,
        engine,
        "/tmp/busybox",
        "-c 'CMD [\"sleep\",\"1000000\"]'",
        "nginx nginx:latest my_image",
    );
}

/// PostgreSQL, as the host has it.
pub fn postgres(machine: &Machine, engine: &str) {
    // Tests that share a machine make it once.
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if !machine.sh(&format!("{engine} images -q postgres:15")).is_empty() {
        return;
    }
    machine.sh(&format!(
        "I=/tmp/postgres; {BUSYBOX}
         echo 'postgres:x:999:999::/tmp:/bin/sh' >> $I/etc/passwd; echo 'postgres:x:999:' >> $I/etc/group
         mkdir -p $I/usr/lib $I/usr/share $I/var/lib/postgresql/data $I/run/postgresql; ln -s /run $I/var/run
         chown 999:999 $I/var/lib/postgresql/data $I/run/postgresql
         home=$(echo /usr/lib/postgresql/*); cp -a --parents /usr/lib/postgresql /usr/share/postgresql \
             /usr/share/zoneinfo/Etc/UTC /usr/lib/locale/C.utf8 $I
         # Just-in-time compilation brings all of LLVM.
         find $I/usr/lib/postgresql -name 'llvmjit*' -o -name bitcode | xargs rm -rf
         for library in $(find $I$home -type f | xargs ldd 2>/dev/null | grep -o '=> /[^ ]*' | cut -c4- | sort -u) \
             $(ldd /bin/true | grep -o '/lib64/[^ ]*'); do
             mkdir -p $I$(dirname $library); cp -L $library $I$library
         done
         for program in $I$home/bin/*; do ln -s $home/bin/${{program##*/}} $I/bin/ 2>/dev/null || true; done"
    ));
    let settings = "-c 'USER postgres' -c 'ENV PGDATA=/var/lib/postgresql/data/pgdata' \
                    -c 'CMD [\"sh\",\"-c\",\"[ -s $PGDATA/PG_VERSION ] || initdb -A trust >/dev/null; exec postgres\"]'";
    import(machine, engine, "/tmp/postgres", settings, "postgres postgres:15");
}
