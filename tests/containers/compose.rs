//! Compose files: those of the examples, and what `down -v` may remove.

use super::docker::shared;

#[test]
fn compose_makes_volumes_keeps_them_and_removes_them_when_told() {
    let docker = shared();
    docker.sh(
        "mkdir -p /root/shop/backups; cd /root/shop; cat > docker-compose.yml <<'END'
version: '3.8'
services:
  web:
    image: nginx
    network_mode: none
    stop_grace_period: 0s
    volumes:
      - content:/usr/share/nginx/html
      - cache:/tmp/cache
      - keep:/keep
  backup:
    image: alpine
    network_mode: none
    stop_grace_period: 0s
    volumes:
      - content:/source:ro
      - ./backups:/backup
    command: sh -c 'while [ ! -e /source/index.html ]; do sleep 0.1; done; tar czf /backup/content.tar.gz -C /source .'
    depends_on: [web]
volumes:
  content:
    driver: larder
    driver_opts:
      size: 10G
    labels:
      retention: 14days
  cache:
    driver: larder
    driver_opts:
      type: tmpfs
      device: tmpfs
  keep:
    driver: larder
    driver_opts:
      sticky: 'true'
END
docker-compose up -d",
    );
    docker.wait_for("tar tzf /root/shop/backups/content.tar.gz | grep -q css/style.css");
    assert_eq!(
        docker.sh("cd /root/shop; docker-compose exec -T web cat /usr/share/nginx/html/index.html"),
        "hello"
    );
    let df = docker
        .sh("cd /root/shop; docker-compose exec -T web df -k /usr/share/nginx/html | awk 'END { print $2 }'");
    assert_eq!(df, "10485760");
    docker.sh(
        "cd /root/shop; docker-compose exec -T web sh -c 'echo changed > /usr/share/nginx/html/index.html'
               docker-compose down; docker-compose up -d",
    );
    assert_eq!(
        docker.sh("cd /root/shop; docker-compose exec -T web cat /usr/share/nginx/html/index.html"),
        "changed"
    );
    // `down -v` removes them, but not what is sticky.
    let output = docker.run("cd /root/shop; docker-compose down -v");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let left = docker.sh("larder ls --json | grep -o 'shop_[a-z]*' | sort -u");
    assert_eq!(left, "shop_keep", "{text}");
    // What somebody lost so comes back. (The engine has forgotten with which options it was made, and Compose compares those.)
    docker.sh(
        "larder trash restore shop_content; cd /root/shop
               docker volume create -d larder -o size=10G --label com.docker.compose.project=shop \
                   --label com.docker.compose.volume=content shop_content
               docker-compose up -d web
               [ \"$(docker-compose exec -T web cat /usr/share/nginx/html/index.html)\" = changed ]; docker-compose down",
    );
}
