//! The table of the guides' commands in `docs/containers.md`, run as it is written.

use super::docker::Docker;
use std::fs;
use std::path::Path;

/// The commands and results of the table.
fn rows() -> Vec<(String, String)> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/containers.md");
    let text = fs::read_to_string(file).unwrap();
    let (_, table) = text.split_once("## The commands of the guides").expect("the section is there");
    let rows =
        table.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |")?.split_once("` | "));
    rows.map(|(command, result)| (command.replace("\\|", "|"), result.to_owned())).collect()
}

/// What shows that a row without words of the command's own is right: a part of the command, and what must succeed after it.
const CLAIMS: &[(&str, &str)] = &[
    ("-d larder my-volume", "[ $(docker volume ls -q | grep -c '^my-volume$') = 1 ]"),
    ("create -d larder", "docker volume ls -q | grep -E '^[0-9a-f]{64}$'"),
    ("--opt o=size=10G my-sized-volume", "[ $(larder get my-sized-volume size) = 10G ]"),
    ("--opt o=size=64m memory-volume", "[ $(larder get memory-volume type) = tmpfs ]"),
    ("--opt parent=my-volume", "larder ls my-volume-snapshot | grep '(of 2)'"),
    (
        "docker volume inspect -f '{{.Mountpoint}}' my-volume)",
        "if grep -q '/mnt/my-volume ' /proc/self/mounts; then exit 1; fi",
    ),
    ("docker plugin ls", "[ -z \"$(docker plugin ls -q)\" ]"),
    (
        "--volume-driver larder -v /app/data",
        "[ $(docker ps -lq | xargs docker inspect -f '{{(index .Mounts 0).Driver}}') = larder ]",
    ),
    ("my-volume:/data:cached", "docker ps -lq | xargs docker inspect -f '{{json .Mounts}}' | grep my-volume"),
    ("docker volume prune -f", "larder ls -q | grep '^my-volume$'"),
];

fn is_as_claimed(docker: &Docker, command: &str) -> bool {
    let (_, check) = CLAIMS
        .iter()
        .find(|(part, _)| command.contains(part))
        .unwrap_or_else(|| panic!("nothing shows that this is so: {command}"));
    docker.run(check).status.success()
}

/// Whoever is refused reads what to do instead.
#[test]
fn what_is_refused_comes_with_another_way() {
    let ways = ["use ", "leave it out", "write it ", "did you mean ", "say where "];
    let refused: Vec<(String, String)> = rows()
        .into_iter()
        .filter(|(command, result)| {
            command.starts_with("docker volume create") && result.starts_with("refused")
        })
        .collect();
    assert!(refused.len() > 8, "{refused:?}");
    for (command, result) in refused {
        let said = result.split('`').nth(1).unwrap_or_else(|| panic!("{command}: nothing is said"));
        assert!(ways.iter().any(|way| said.contains(way)), "{command}: {said}");
    }
}

#[test]
fn the_commands_of_the_guides_do_what_the_table_says() {
    let docker = Docker::new("");
    docker.sh("mkdir -p /etc/larder /root/work; head -c 32 /dev/urandom > /etc/larder/key; chmod 600 /etc/larder/key");
    let rows = rows();
    assert!(rows.len() > 80, "{} rows", rows.len());
    let mut wrong = String::new();
    for (command, result) in rows {
        let output = docker.run(&format!("cd /root/work; {command}"));
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        // What it says is what is written: not a word of the list of options that follows, nor of the command.
        let reason = text.replace(&command, "");
        let reason = reason.split("; the options are ").next().unwrap_or_default();
        let said = result.split('`').nth(1);
        let success = result.starts_with("works");
        assert!(success || result.starts_with("refused: `"), "{result}");
        let claim = result.starts_with("works: ") && said.is_none();
        let is_creation = command.starts_with("docker volume create");
        let is_so = match (claim, said) {
            (true, _) => is_as_claimed(&docker, &command),
            // To its end, so that the table shows what to do instead.
            (false, Some(said)) if !success && is_creation => reason.trim_end().ends_with(said),
            (false, said) => said.is_none_or(|said| reason.contains(said)),
        };
        if output.status.success() != success || !is_so {
            wrong += &format!("{command}\n    should be: {result}\n    {}: {}\n", output.status, text.trim());
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}
