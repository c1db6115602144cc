//! Docker Engine with the volume driver: what volumes are for.

use super::docker::{Docker, shared};

/// For a shell with BusyBox, in double quotes: what a tree is like, where file systems are the same.
const LISTING: &str = r"cd \$1; find . | sort | while read f; do
    stat -c '%A %u %g %h %n' \$f; [ -h \$f ] && readlink \$f; [ -f \$f -a ! -h \$f ] && stat -c '%s %y' \$f && md5sum < \$f; done; true";

#[test]
fn a_container_works_on_a_volume_and_the_next_one_finds_it() {
    let docker = shared();
    docker.sh("docker volume create -d larder -o size=1G -o inodes=1000 engine-db");
    assert_eq!(docker.sh("docker volume ls -q -f name=engine-db"), "engine-db");
    assert_eq!(docker.sh("docker volume inspect -f '{{.Driver}}' engine-db"), "larder");
    docker.sh("docker run --rm -v engine-db:/data busybox sh -c 'echo data > /data/f; mkdir /data/dir'");
    assert_eq!(docker.sh("docker run --rm -v engine-db:/data busybox cat /data/f"), "data");
    // The limits are those of the file system that the container sees.
    let df = docker.sh("docker run --rm -v engine-db:/data busybox df -k /data | awk 'END { print $2 }'");
    assert_eq!(df, "1048576");
    let full = "docker run --rm -v engine-db:/data busybox dd if=/dev/zero of=/data/big bs=1M count=1100";
    assert!(docker.fails(full).contains("No space left on device"));
    let many = "docker run --rm -v engine-db:/data busybox sh -c 'for i in $(seq 1100); do : > /data/dir/$i || exit 1; done'";
    assert!(docker.fails(many).contains("No space left on device"));
    // Larger at once, while a container uses it.
    docker.sh("docker run -d --name engine-user -v engine-db:/data busybox sleep 1000");
    docker.sh("rm -f x; larder resize engine-db --size 2G --inodes none");
    docker.sh("docker exec engine-user dd if=/dev/zero of=/data/big bs=1M count=1100");
    assert!(docker.fails("docker volume rm engine-db").contains("in use"));
    // Who has it is called as the engine calls it, and by its ID where the engine does not answer.
    let id = docker.sh("docker inspect -f '{{.Id}}' engine-user");
    assert_eq!(docker.sh("larder ls --format '{{.Containers}}' engine-db"), "engine-user");
    assert_eq!(
        docker.sh("DOCKER_HOST=unix:///nowhere larder ls --format '{{.Containers}}' engine-db"),
        id[..12]
    );
    assert!(docker.sh("docker volume inspect engine-db").contains(&id));
    assert!(docker.fails("larder umount engine-db").contains("the containers engine-user;"));
    docker.sh("docker create --name engine-made -v engine-made:/data --volume-driver larder busybox");
    assert_eq!(docker.sh("larder ls -q -f dangling=true -f name=engine-db -f name=engine-made"), "");
    docker.sh("docker rm -f engine-made; docker stop -t 0 engine-user");
    assert_eq!(
        docker.sh("larder ls -q -f dangling=true -f name=engine-db -f name=engine-made"),
        "engine-made"
    );
    docker.sh("docker volume rm engine-made");
    docker.sh("docker rm -f engine-user; docker volume rm engine-db");
    assert!(docker.fails("larder inspect engine-db").contains("engine-db"));
    assert!(docker.fails("docker volume inspect engine-db").contains("engine-db"));
}

/// Its mount went at once, and the command waited for the container to end.
#[test]
fn a_volume_that_was_mounted_by_hand_stays_while_a_container_has_it_bound() {
    let docker = shared();
    // A root of its own: --all is about all that is mounted of one.
    const ROOT: &str = "export LARDER_ROOT=/var/lib/by-hand;";
    docker.sh(&format!(
        "{ROOT} larder create by-hand; larder mount --mkdir by-hand /mnt/by-hand; echo data > /mnt/by-hand/f
               docker run -d --name binder -v /mnt/by-hand:/d busybox sleep 1000
               docker run -d --name follower -v /mnt:/mnt:rslave busybox sleep 1000"
    ));
    for target in ["by-hand", "/mnt/by-hand"] {
        let why =
            docker.fails(&format!("{ROOT} timeout 30 larder umount {target} || {{ [ $? = 5 ] && exit 1; }}"));
        assert!(why.contains("in use by the containers binder;"), "{why}");
    }
    let passed_over =
        docker.sh(&format!("{ROOT} timeout 30 larder umount --all 2>&1; grep data /mnt/by-hand/f"));
    assert!(
        passed_over.contains("/mnt/by-hand stays mounted: volume \"by-hand\" is in use by"),
        "{passed_over}"
    );
    // One to which the host's unmounting goes does not keep it.
    docker.sh(&format!(
        "{ROOT} docker rm -f binder; timeout 60 larder umount by-hand; if mounted by-hand; then exit 1; fi
               docker rm -f follower; larder check by-hand"
    ));
    // Nor is a second mount of it kept.
    docker.sh(&format!(
        "{ROOT} larder mount by-hand /mnt/by-hand; mkdir -p /srv/app; mount --bind /mnt/by-hand /srv/app
               docker run -d --name binder -v /mnt/by-hand:/d busybox sleep 1000
               timeout 30 larder umount /srv/app; grep data /mnt/by-hand/f
               timeout 30 larder umount --lazy --all 2>&1; if mounted by-hand; then exit 1; fi
               docker exec binder cat /d/f | grep data; docker rm -f binder
               until_true 'larder rm by-hand'; rm -r /var/lib/by-hand"
    ));
}

#[test]
fn an_empty_volume_begins_as_what_the_image_has_there() {
    let docker = shared();
    // As with Docker's own volumes: contents, owners, permissions, times, links.
    let copied = |driver: &str| {
        docker.sh(&format!(
            "docker volume create -d {driver} engine-copy-{driver} >/dev/null
             docker run --rm -v engine-copy-{driver}:/usr/share/nginx/html nginx true
             docker run --rm -v engine-copy-{driver}:/usr/share/nginx/html nginx sh -c \"{LISTING}\" -- /usr/share/nginx/html"
        ))
    };
    let copy = copied("larder");
    assert_eq!(copy, copied("local"));
    assert!(copy.contains("index.html") && copy.contains("2001-02-03"), "{copy}");
    // Only then: what is there stays, and `nocopy` means it.
    docker.sh("docker run --rm -v engine-copy-larder:/v busybox rm /v/index.html");
    let ls = "docker run --rm -v engine-copy-larder:/usr/share/nginx/html nginx ls /usr/share/nginx/html";
    assert_eq!(docker.sh(ls), "css\nlink");
    docker.sh("docker volume create -d larder engine-nocopy");
    let nocopy = "docker run --rm --mount source=engine-nocopy,target=/usr/share/nginx/html,volume-nocopy nginx \
                  ls -A /usr/share/nginx/html";
    assert_eq!(docker.sh(nocopy), "");
    docker.sh("docker volume rm engine-copy-larder engine-copy-local engine-nocopy");
}

#[test]
fn containers_share_a_volume_and_some_of_them_only_read() {
    let docker = shared();
    docker.sh("docker volume create -d larder engine-share
               host='-v /usr/lib:/lib:ro -v /usr/lib64:/lib64:ro -v /usr/bin/flock:/flock:ro'
               docker run -d --name share-writer $host -v engine-share:/output busybox \
                   sh -c 'while true; do date >> /output/log; sleep 0.1; done'
               docker run -d --name share-reader $host -v engine-share:/input:ro busybox sleep 1000
               docker run -d --name share-long --mount source=engine-share,target=/input,readonly busybox sleep 1000");
    docker.wait_for("docker exec share-reader grep -q . /input/log");
    for reader in ["share-reader", "share-long"] {
        let refused = docker.fails(&format!("docker exec {reader} touch /input/x"));
        assert!(refused.contains("Read-only file system"), "{refused}");
    }
    // Locks hold between containers.
    docker.sh("docker exec -d share-writer /flock /output/lock sleep 5");
    docker.wait_for("! docker exec share-reader /flock -n -s /input/lock true");
    // One that ends takes nothing from the others.
    docker.sh("docker rm -f share-long");
    docker.sh(
        "docker exec share-writer sh -c 'echo end > /output/end'; docker exec share-reader cat /input/end",
    );
    docker.sh("docker rm -f share-writer share-reader; docker volume rm engine-share");
}

#[test]
fn docker_cp_works_on_running_and_stopped_containers_and_leaves_the_volume_mounted() {
    let docker = shared();
    docker.sh("docker volume create -d larder engine-cp; mkdir -p /root/cp; echo in > /root/cp/in
               docker run -d --name cp-user -v engine-cp:/data busybox sleep 1000
               docker cp /root/cp/in cp-user:/data/in; docker exec cp-user sh -c 'cat /data/in > /data/out'
               docker cp cp-user:/data/out /root/cp/out; grep in /root/cp/out");
    // It mounts and unmounts with the container's own id: the container must not notice.
    docker.sh("for i in 1 2 3; do docker cp cp-user:/data/out - >/dev/null; done; docker exec cp-user cat /data/out");
    docker.sh("docker stop -t 0 cp-user; docker cp cp-user:/data/out - | tar -xO | grep in
               docker cp /root/cp/in cp-user:/data/stopped; docker start cp-user; docker exec cp-user cat /data/stopped");
    // After all that, the last user's end unmounts it.
    docker.sh("docker rm -f cp-user");
    docker.wait_for("! mounted engine-cp");
    docker.sh("larder check engine-cp --read-data; docker volume rm engine-cp");
}

#[test]
fn users_in_containers_own_what_they_are_given() {
    let docker = shared();
    docker.sh("docker volume create -d larder -o uid=1000 -o gid=1000 -o mode=0750 engine-user");
    let run = "docker run --rm --user 1000:1000 -v engine-user:/data busybox";
    assert_eq!(
        docker.sh(&format!("{run} sh -c 'echo a > /data/f; stat -c %u:%g:%a /data /data/f'")),
        "1000:1000:750\n1000:1000:644"
    );
    let other = docker.fails("docker run --rm --user 2000:2000 -v engine-user:/data busybox cat /data/f");
    assert!(other.contains("Permission denied"), "{other}");
    // Capabilities that a container does not have do not help its root.
    let root = docker.fails("docker run --rm --cap-drop ALL -v engine-user:/data busybox touch /data/x");
    assert!(root.contains("Permission denied"), "{root}");
    docker.sh("docker volume rm engine-user");
}

#[test]
fn a_container_reaches_nothing_but_its_volume() {
    let docker = shared();
    docker.sh("larder create engine-other; docker volume create -d larder engine-mine
               docker run --rm -v engine-mine:/data busybox sh -c 'echo mine > /data/f'
               larder snapshot create engine-mine@one");
    let run = "docker run --rm --privileged=false -v engine-mine:/data busybox sh -ec";
    // Neither upwards, nor by links, nor by its snapshots, nor by a device.
    assert_eq!(docker.sh(&format!("{run} 'ls -A /data/..' | grep -c larder || true")), "0");
    docker.sh(&format!(
        "{run} 'ln -s /var/lib/larder /data/root; ln -s ../../../.. /data/up; if ls /data/root/; then exit 1; fi'"
    ));
    assert_eq!(
        docker.sh(&format!("{run} 'cat /data/.snapshots/one/f; ls -A /data/.snapshots/..'")),
        "mine\nf\nroot\nup"
    );
    assert_eq!(
        docker.sh(&format!("{run} 'ls /data/.snapshots; if touch /data/.snapshots/x; then exit 1; fi'")),
        "one"
    );
    docker.sh(&format!(
        "{run} 'if ls /dev/fuse || mount -t tmpfs none /data || mount -o remount,rw /data; then exit 1; fi'"
    ));
    docker.sh(&format!("{run} 'mknod /data/fuse c 10 229; if (: < /data/fuse); then exit 1; fi'"));
    // Sockets and directories of the host are root's own.
    let modes = docker.sh("find /var/lib/larder /run/docker/plugins -type s -printf '%m %u\\n' | sort -u");
    assert_eq!(modes, "600 root");
    assert_eq!(docker.sh("stat -c %a /var/lib/larder/stores /var/lib/larder/volumes"), "700\n700");
    // What the container left behind is no trap for the host, either.
    docker.sh("larder check engine-mine; docker volume rm engine-mine; larder rm engine-other");
}

#[test]
fn a_volume_is_backed_up_and_restored_with_tar() {
    let docker = shared();
    docker.sh("docker volume create -d larder engine-tar; docker volume create -d larder engine-restored; docker volume create native
               mkdir -p /root/backup; docker run --rm -v engine-tar:/data nginx sh -c \
                   'cp -a /usr/share/nginx/html/. /data; mkfifo /data/pipe; ln /data/index.html /data/hard; truncate -s 10M /data/sparse'
               docker run --rm -v engine-tar:/source:ro -v /root/backup:/backup alpine tar czf /backup/v.tar.gz -C /source .
               for to in engine-restored native; do
                   docker run --rm -v $to:/target -v /root/backup:/backup alpine tar xzf /backup/v.tar.gz -C /target
               done");
    let of = |volume: &str| {
        docker.sh(&format!("docker run --rm -v {volume}:/v busybox sh -c \"{LISTING}\" -- /v"))
    };
    assert_eq!(of("engine-restored"), of("native"));
    assert!(of("engine-restored").contains("sparse"));
    docker.sh("docker volume rm engine-tar engine-restored native");
}

#[test]
fn a_mount_by_hand_is_bound_into_containers() {
    let docker = shared();
    docker.sh("larder create engine-hand; mkdir -p /mnt/hand/v; mount -t larder engine-hand /mnt/hand/v; echo hello > /mnt/hand/v/f
               docker run -d --name hand-plain -v /mnt/hand/v:/data busybox sleep 1000
               docker run -d --name hand-above --mount type=bind,source=/mnt/hand,target=/data,bind-propagation=rslave \
                   busybox sleep 1000
               docker run -d --name hand-ro -v /mnt/hand/v:/data:ro busybox sleep 1000");
    assert_eq!(
        docker.sh("docker exec hand-plain cat /data/f; docker exec hand-above cat /data/v/f"),
        "hello\nhello"
    );
    let refused = docker.fails("docker exec hand-ro touch /data/x");
    assert!(refused.contains("Read-only file system"), "{refused}");
    // The server and its holder die; the volume is mounted again. Only who receives mounts gets it back without a restart.
    docker.kill_server("engine-hand");
    docker.wait_for("! cat /mnt/hand/v/f");
    docker.sh("mount -t larder engine-hand /mnt/hand/v");
    assert_eq!(docker.sh("docker exec hand-above cat /data/v/f"), "hello");
    // (What the kernel still has in its caches can be read.)
    let dead = docker.fails("docker exec hand-plain touch /data/g");
    assert!(dead.contains("not connected"), "{dead}");
    docker.sh("docker restart -t 0 hand-plain");
    assert_eq!(docker.sh("docker exec hand-plain cat /data/f"), "hello");
    docker.sh(
        "docker rm -f hand-plain hand-above hand-ro; umount /mnt/hand/v; until_true 'larder rm engine-hand'",
    );
}

#[test]
fn with_remapped_users_a_volume_belongs_to_whom_it_was_made_for() {
    let docker = Docker::new("\"userns-remap\": \"default\"");
    let base: u32 = docker.sh("awk -F: '/^dockremap/ { print $2 }' /etc/subuid").parse().unwrap();
    docker.sh(&format!(
        "docker volume create -d larder -o uid={base} -o gid={base} remapped; docker volume create -d larder plain"
    ));
    let inside = docker.sh(
        "docker run --rm -v remapped:/data busybox sh -c \
             'touch /data/f; chown 1000:1000 /data/f; stat -c %u:%g /data /data/f; cat /proc/self/uid_map' | tr -s ' '",
    );
    assert_eq!(inside, format!("0:0\n1000:1000\n 0 {base} 65536"));
    // A volume that belongs to the host's root is nobody's there.
    let refused = docker.fails("docker run --rm -v plain:/data busybox touch /data/f");
    assert!(refused.contains("Permission denied"), "{refused}");
    docker.sh("docker volume rm remapped plain");
}

#[test]
fn a_volume_gets_another_name_between_two_containers() {
    let docker = shared();
    docker.sh("docker volume create -d larder engine-old
               docker run -d --name rename-user -v engine-old:/data busybox sleep 1000
               docker exec rename-user sh -c 'echo data > /data/f'");
    let why = docker.fails("larder rename engine-old engine-new");
    assert!(why.contains("in use by containers"), "{why}");
    docker.sh("docker rm -f rename-user");
    docker.wait_for("! mounted engine-old");
    let notes = docker.sh("larder rename engine-old engine-new 2>&1");
    assert!(notes.contains("containers and Compose files that name \"engine-old\""), "{notes}");
    assert_eq!(docker.sh("docker volume ls -q -f name=engine-old -f name=engine-new"), "engine-new");
    assert!(docker.fails("docker volume inspect engine-old").contains("engine-old"));
    assert_eq!(docker.sh("docker run --rm -v engine-new:/data busybox cat /data/f"), "data");
    docker.wait_for("! mounted engine-new");
    // A held snapshot keeps the volume, whoever wants to remove it.
    docker.sh("larder snapshot create engine-new@kept; larder hold backup engine-new@kept");
    let why = docker.fails("docker volume rm engine-new");
    assert!(why.contains("engine-new@kept is held (backup)"), "{why}");
    docker.sh("larder release backup engine-new@kept; docker volume rm engine-new");
}
