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
        let said = result.split('`').nth(1).unwrap_or("");
        let success = result.starts_with("works");
        assert!(success || result.starts_with("refused: `"), "{result}");
        if output.status.success() != success || !text.contains(said) {
            wrong += &format!("{command}\n    should be: {result}\n    {}: {}\n", output.status, text.trim());
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}
