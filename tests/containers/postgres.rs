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
    docker.sh("docker rm -f pg pg-clone; ! grep -rqa pg_catalog /var/lib/larder/stores");
    let shown = docker.sh("docker volume inspect pg pg-clone");
    assert!(shown.contains("/etc/larder/pg.key"), "{shown}");
    docker.wait_for("! mounted 'pg.*'");
    docker.sh("for v in pg pg-clone; do larder check $v --read-data --key-file /etc/larder/pg.key; done
               docker volume rm pg-clone; larder snapshot rm pg@before --key-file /etc/larder/pg.key; docker volume rm pg");
}
