//! The documents: every link and every anchor leads somewhere, every chapter is in the table of contents, and what is in one
//! document and in another as well says the same.

use crate::support::{run, succeed};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Markdown files below a directory, but for what is built.
fn documents(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_str().unwrap();
        if entry.file_type().unwrap().is_dir() {
            if name != "target" && !name.starts_with('.') {
                found.extend(documents(&path));
            }
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
    found
}

/// The lines of a document that are no code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        !in_code && !is_fence
    })
}

/// What the links and pictures of a line point to.
fn links(line: &str) -> Vec<&str> {
    // Links in code are text. A link's own text may be code.
    let mut outside = true;
    let mut found = Vec::new();
    for (at, c) in line.char_indices() {
        if c == '`' {
            outside = !outside;
        } else if outside && line[at..].starts_with("](") {
            let target = &line[at + 2..];
            found.push(&target[..target.find(')').unwrap_or_else(|| panic!("no end: {line}"))]);
        }
    }
    found
}

/// The anchors of a document's headings, as GitHub and mdBook make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for line in prose(text).filter(|line| line.starts_with('#')) {
        let heading = line.trim_start_matches('#').trim();
        let kept = heading.to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || "_- ".contains(*c));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        assert!(anchors.insert(anchor), "two headings are alike: {line}");
    }
    anchors
}

/// The links of a document that lead nowhere, each in a line.
fn dead_links(document: &Path) -> String {
    let text = fs::read_to_string(document).unwrap();
    let mut dead = String::new();
    for link in prose(&text).flat_map(links) {
        if link.contains("://") || link.starts_with("mailto:") {
            continue;
        }
        let (file, anchor) = link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
        let path = match file {
            "" => document.to_owned(),
            file => document.parent().unwrap().join(file),
        };
        let leads_somewhere = path.exists()
            && anchor.is_none_or(|anchor| {
                path.is_file() && anchors(&fs::read_to_string(&path).unwrap()).contains(anchor)
            });
        if !leads_somewhere {
            dead += &format!("{}: {link}\n", document.display());
        }
    }
    dead
}

#[test]
fn the_reader_of_links_sees_them_and_not_those_in_code() {
    assert_eq!(links("[a](b.md), `[c](d)`, ![e](f.svg) [`g`](h.md#i)"), ["b.md", "f.svg", "h.md#i"]);
    let text = "# A `b` & C\n```\n# no\n```\n## D: e, 2\n";
    assert_eq!(anchors(text), BTreeSet::from(["a-b--c".to_owned(), "d-e-2".to_owned()]));
    let dir = tempfile::tempdir().unwrap();
    let document = dir.path().join("a.md");
    fs::write(&document, "# Here\n[x](a.md#here) [y](#here) [z](b.md)\n[w](#gone) [v](https://there)")
        .unwrap();
    let dead = dead_links(&document);
    assert!(dead.contains("b.md") && dead.contains("#gone") && dead.lines().count() == 2, "{dead}");
}

#[test]
fn every_link_leads_somewhere() {
    let documents = documents(project());
    assert!(documents.len() > 10, "{documents:?}");
    let dead: String = documents.iter().map(|document| dead_links(document)).collect();
    assert!(dead.is_empty(), "\n{dead}");
}

/// In the book, chapters lie side by side.
#[test]
fn every_link_leads_somewhere_in_the_book_too() {
    let dir = tempfile::tempdir().unwrap();
    succeed(Command::new(project().join("scripts/book")).arg("--stage").arg(dir.path()));
    let staged = documents(dir.path());
    assert!(staged.len() > 10, "{staged:?}");
    let dead: String = staged.iter().map(|document| dead_links(document)).collect();
    assert!(dead.is_empty(), "\n{dead}");
}

/// Pages are made where mdBook can be had, and the check of their links is to be trusted.
#[test]
fn a_page_with_a_link_that_leads_nowhere_is_not_a_book() {
    let dir = tempfile::tempdir().unwrap();
    let page = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    let check = || run(Command::new(project().join("scripts/book")).arg("--links").arg(dir.path()));
    assert!(!check().status.success(), "there is nothing");
    page("index.html", "<a href='a.html#two'>x</a> <a href='https://there'>y</a> <img src='a.svg'>");
    page("a.html", "<h1 id='two'>z</h1> <a href='#two'>x</a> <a href='index.html'>y</a>");
    page("a.svg", "");
    let output = check();
    assert!(output.status.success(), "{output:?}");
    for (bad, why) in [("b.html", "b.html"), ("a.html#three", "#three"), ("../x", "../x")] {
        page("index.html", &format!("<a href='{bad}'>x</a>"));
        let output = check();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(why), "{bad}: {said}");
    }
}

#[test]
fn every_chapter_is_in_the_table_of_contents() {
    let docs = project().join("docs");
    let summary = fs::read_to_string(docs.join("SUMMARY.md")).unwrap();
    let listed: Vec<&str> = prose(&summary).flat_map(links).collect();
    for entry in documents(&docs) {
        let name = entry.strip_prefix(&docs).unwrap().to_str().unwrap();
        let times = listed.iter().filter(|link| **link == name).count();
        assert_eq!(times, usize::from(name != "SUMMARY.md"), "{name} in SUMMARY.md");
    }
}

#[test]
fn every_exit_code_is_documented() {
    let page = fs::read_to_string(project().join("docs/commands.md")).unwrap();
    for code in 0..=14 {
        assert!(page.contains(&format!("| {code} |")), "exit code {code} is not in docs/commands.md");
    }
}

/// Figures that are in two chapters are the same in both.
#[test]
fn tuning_says_what_was_measured() {
    let read = |name: &str| fs::read_to_string(project().join("docs").join(name)).unwrap();
    let (tuning, measured) = (read("tuning.md"), read("benchmarks.md"));
    let section = |heading: &str| {
        let (_, rest) = measured.split_once(heading).unwrap_or_else(|| panic!("no {heading:?}"));
        rest.split_once("\n## ").map_or(rest, |(section, _)| section)
    };
    // What an idle volume takes of the host's memory: the last column but two.
    let row =
        section("## Volumes that nobody uses").lines().find(|line| line.starts_with("| 1,000 | at rest |"));
    let columns: Vec<&str> = row.expect("a thousand are at rest").split('|').map(str::trim).collect();
    let kib: f64 = columns[columns.len() - 4].replace(',', "").parse().unwrap();
    let said = format!(
        "about {:.0} MiB of the\nhost's memory: a thousand of them need about {0:.0} GiB",
        kib / 1024.0
    );
    assert!(tuning.contains(&said), "{kib} KiB: {said}");
    // How much faster small requests are at most.
    let words: Vec<&str> = section("## Keeping idle CPUs awake").split_whitespace().collect();
    let ratios = words.windows(3).filter(|words| words[1] == ":").filter_map(|words| {
        let [on, off]: [f64; 2] = [words[0].parse().ok()?, words[2].parse().ok()?];
        Some(on / off)
    });
    let most = ratios.fold(0.0, f64::max);
    assert!(tuning.contains(&format!("up to {most:.1} times as fast")), "{most}");
}
