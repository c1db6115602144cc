//! PostgreSQL in containers, on a volume that outlives them, its snapshot and its clone.

use super::docker::shared;
use super::images;

#[test]
fn a_database_lives_on_an_encrypted_limited_volume_through_containers_snapshots_and_clones() {
    let docker = shared();
    images::postgres(&docker, "docker");
    docker.sh("mkdir -p /etc/larder; head -c 32 /dev/urandom > /etc/larder/pg.key; chmod 600 /etc/larder/pg.key
               docker volume create -d larder -o size=2G -o encrypt=true -o key-file=/etc/larder/pg.key -o uid=999 -o gid=999 \
                   -o mode=0700 pg
               docker run -d --name pg -v pg:/var/lib/postgresql/data postgres:15");
    let ready = |name: &str| docker.wait_for(&format!("docker exec {name} psql -c 'SELECT 1'"));
    let sql = |name: &str, sql: &str| docker.sh(&format!("docker exec {name} psql -Atc \"{sql}\""));
    ready("pg");
    sql("pg", "CREATE TABLE t AS SELECT i, md5(i::text) AS h FROM generate_series(1, 100000) i");
    let sum = "SELECT count(*), md5(string_agg(h, '' ORDER BY i)) FROM t";
    let before = sql("pg", sum);

    // Stop, remove, run again.
    docker.sh(
        "docker stop pg; docker rm pg; docker run -d --name pg -v pg:/var/lib/postgresql/data postgres:15",
    );
    ready("pg");
    assert_eq!(sql("pg", sum), before);

    // A snapshot under load, and a second database on a clone of it, beside the first one.
    docker.sh("docker exec -d pg pgbench -i -q; sleep 0.5; larder snapshot create pg@before");
    sql("pg", "DELETE FROM t WHERE i > 10");
    docker.sh("docker volume create -d larder -o from=pg@before -o key-file=/etc/larder/pg.key pg-clone
               docker run -d --name pg-clone -v pg-clone:/var/lib/postgresql/data postgres:15 \
                   sh -c 'rm -f $PGDATA/postmaster.pid; exec postgres'");
    ready("pg-clone");
    assert_eq!(sql("pg-clone", sum), before);
    assert_eq!(sql("pg", "SELECT count(*) FROM t"), "10");

    // The engine's kill, and the database recovers by itself.
    sql("pg-clone", "INSERT INTO t VALUES (0, 'new')");
    docker.sh("docker kill pg-clone; docker rm pg-clone
               docker run -d --name pg-clone -v pg-clone:/var/lib/postgresql/data postgres:15");
    ready("pg-clone");
    assert_eq!(sql("pg-clone", "SELECT count(*) FROM t"), "100001");

    // Nothing of it can be read from the disk, and what the engine shows has no secrets.
    docker.sh("docker rm -f pg pg-clone; store=$(readlink -e /var/lib/larder/volumes/pg)
               if grep -rqa pg_catalog $store; then exit 1; fi");
    let shown = docker.sh("docker volume inspect pg pg-clone");
    assert!(shown.contains("/etc/larder/pg.key"), "{shown}");
    docker.wait_for("! mounted pg && ! mounted pg-clone");
    docker.sh("for v in pg pg-clone; do larder check $v --read-data --key-file /etc/larder/pg.key; done
               docker volume rm pg-clone; larder snapshot rm pg@before --key-file /etc/larder/pg.key; docker volume rm pg");
}

#[test]
fn a_database_under_load_does_not_notice_that_servers_die_are_upgraded_or_stopped() {
    let docker = shared();
    images::postgres(&docker, "docker");
    docker.sh("docker volume create -d larder -o size=2G -o uid=999 -o gid=999 -o mode=0700 pg-load
               docker run -d --name pg-load -v pg-load:/var/lib/postgresql/data postgres:15");
    docker.wait_for("docker exec pg-load psql -c 'SELECT 1'");
    docker.sh("docker exec pg-load pgbench -i -q -s 5 2>/dev/null
               docker exec pg-load pgbench -c 4 -T 45 > /root/pgbench.log 2>&1 & disown");
    for round in 0..20 {
        docker.sh(&format!("sleep 0.{}; kill -9 {}", round * 7 % 10, docker.server("pg-load")));
        if round % 5 == 4 {
            docker.sh("larder upgrade pg-load");
        }
    }
    // The holder finds out by itself.
    docker.sh(&format!("kill -STOP {}", docker.server("pg-load")));
    docker.wait_for("grep 'number of failed transactions: 0 ' /root/pgbench.log");
    let count = docker.sh("sed -n 's/^number of transactions actually processed: //p' /root/pgbench.log");
    let sql = |sql: &str| docker.sh(&format!("docker exec pg-load psql -Atc \"{sql}\""));
    // What pgbench was told is committed is there, once, and the accounts agree with it.
    assert_eq!(sql("SELECT count(*) FROM pgbench_history"), count);
    assert_eq!(
        sql("SELECT (SELECT sum(delta) FROM pgbench_history) = (SELECT sum(bbalance) FROM pgbench_branches)
             AND (SELECT sum(delta) FROM pgbench_history) = (SELECT sum(abalance) FROM pgbench_accounts)"),
        "t"
    );
    docker.sh("docker rm -f pg-load");
    docker.wait_for("! mounted pg-load");
    docker.sh("larder check pg-load --read-data; docker volume rm pg-load");
}
