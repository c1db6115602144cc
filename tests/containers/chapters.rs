//! The commands of the book, run as they are written: in each chapter, the blocks marked `sh` from top to bottom, in a machine of
//! their own. What a reader has already, or must find true afterwards, is in comments between them that begin with `test:`.

use super::docker::Docker;
use super::machine::Machine;
use std::fs;
use std::path::Path;

/// A piece of a chapter that is run.
#[derive(Debug, PartialEq)]
struct Step {
    /// Number of its first line in the chapter.
    line: usize,
    script: String,
}

fn steps(text: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut open: Option<(Step, &str)> = None;
    for (number, line) in text.lines().enumerate() {
        match &mut open {
            Some((_, end)) if line == *end => steps.extend(open.take().map(|(step, _)| step)),
            Some((step, _)) => step.script += &format!("{line}\n"),
            None => {
                let end = match line {
                    "```sh" => "```",
                    line if line.starts_with("<!-- test:") => "-->",
                    _ => continue,
                };
                open = Some((Step { line: number + 2, script: String::new() }, end));
            }
        }
    }
    assert!(open.is_none(), "no end: {open:?}");
    steps
}

#[track_caller]
fn run(machine: &Machine, chapter: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(chapter);
    let steps = steps(&fs::read_to_string(file).unwrap());
    assert!(!steps.is_empty(), "{chapter} has nothing that is run");
    for Step { line, script } in steps {
        let output = machine.run(&script);
        let said = [output.stdout, output.stderr].concat();
        assert!(
            output.status.success(),
            "docs/{chapter}, line {line}: {}\n{script}\n{}",
            output.status,
            String::from_utf8_lossy(&said)
        );
    }
}

#[test]
fn the_reader_of_chapters_finds_what_is_to_be_run() {
    let text = "a\n```sh\nb\nc\n```\n```\nd\n```\n<!-- e\n-->\n<!-- test: f\ng\n-->\n";
    let step = |line, script: &str| Step { line, script: script.into() };
    assert_eq!(steps(text), [step(3, "b\nc\n"), step(12, "g\n")]);
}

#[test]
fn readme() {
    run(&Docker::new(""), "../README.md");
}

#[test]
fn start() {
    run(&Docker::new(""), "start.md");
}

#[test]
fn snapshots() {
    run(&Machine::new(), "snapshots.md");
}

#[test]
fn encryption() {
    run(&Machine::new(), "encryption.md");
}

#[test]
fn limits() {
    run(&Machine::new(), "limits.md");
}

#[test]
fn monitoring() {
    run(&Machine::new(), "monitoring.md");
}

#[test]
fn mounting() {
    run(&Machine::new(), "mounting.md");
}

#[test]
fn recovery() {
    run(&Machine::new(), "recovery.md");
}
