//! What users read: every message of the program stands in `tests/messages.txt`, so that a change of one is seen in a review, and
//! all can be read from top to bottom.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// In the environment: write the list instead of comparing with it.
const UPDATE: &str = "LARDER_UPDATE_MESSAGES";

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The program's files, in order; not its unit tests.
fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    let is_test = |path: &Path| path.file_stem().is_some_and(|stem| stem == "tests");
    let each = entries.into_iter().filter(|path| !is_test(path));
    each.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

/// The strings of a Rust file, without those of its unit tests, of attributes' reasons, and of bytes.
fn strings(text: &str) -> Vec<String> {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        let before = text[..at].chars().next_back().unwrap_or(' ');
        at += if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if !before.is_alphanumeric()
            && rest.starts_with('r')
            && rest[1..].trim_start_matches('#').starts_with('"')
        {
            let hashes = rest[1..].find('"').unwrap();
            let inner = &rest[hashes + 2..];
            let end = inner.find(&format!("\"{}", "#".repeat(hashes))).unwrap();
            found.push(inner[..end].to_owned());
            hashes + 2 + end + 1 + hashes
        } else if c == '"' {
            let len = quoted(&rest[1..]);
            let is_of_bytes = before == 'b';
            let is_reason = text[..at].trim_end().ends_with("reason =");
            if !is_of_bytes && !is_reason {
                found.push(joined(&rest[1..=len]));
            }
            len + 2
        } else if c == '\'' {
            character(rest)
        } else {
            c.len_utf8()
        };
    }
    found
}

/// Bytes up to the quotation mark that ends a string.
fn quoted(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return at,
            _ => {}
        }
    }
    panic!("a string without an end: {text:.40}");
}

/// Bytes of a character in single quotation marks, or of the mark of a lifetime.
fn character(text: &str) -> usize {
    let inner = &text[1..];
    match inner.strip_prefix('\\') {
        Some(escape) => 2 + escape.chars().next().unwrap().len_utf8() + escape[1..].find('\'').unwrap() + 1,
        None => {
            let len = inner.chars().next().unwrap().len_utf8();
            if inner[len..].starts_with('\'') { len + 2 } else { 1 }
        }
    }
}

/// A string over several lines in one.
fn joined(text: &str) -> String {
    let mut lines = text.split("\\\n");
    let first = lines.next().unwrap().to_owned();
    lines.fold(first, |line, next| line + next.trim_start())
}

/// Whether a string is something to be read: words, with more than one of them, and no statement of SQL.
fn is_prose(text: &str) -> bool {
    let is_sql =
        ["SELECT ", "INSERT ", "UPDATE ", "DELETE ", "CREATE ", "PRAGMA ", "WITH ", "ATTACH ", "ALTER "]
            .iter()
            .any(|statement| {
                text.trim_start_matches(['(', '\n', ' ']).starts_with(statement) || text.contains("\nCREATE ")
            });
    let words: Vec<&str> = text.split_whitespace().collect();
    let is_list_of_columns =
        words.split_last().is_some_and(|(_, all)| all.iter().all(|word| word.ends_with(',')));
    let is_word =
        |word: &&&str| word.len() > 1 && word.chars().all(|c| c.is_alphabetic() || ",;:.'`".contains(c));
    !is_sql && words.len() > 1 && !is_list_of_columns && words.iter().any(|word| is_word(&word))
}

/// All messages, below the names of the files that they are in.
fn messages() -> Vec<(String, Vec<String>)> {
    let of_file = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let mut found: Vec<String> = strings(&text).into_iter().filter(|text| is_prose(text)).collect();
        let mut seen = std::collections::BTreeSet::new();
        found.retain(|text| seen.insert(text.clone()));
        (path.strip_prefix(project()).unwrap().to_str().unwrap().to_owned(), found)
    };
    sources(&project().join("src")).into_iter().map(of_file).filter(|(_, found)| !found.is_empty()).collect()
}

#[test]
fn the_reader_of_sources_finds_strings() {
    let text = r##"
        /// "not this" don't
        let a = "one two"; let b = '"'; fn f<'a>(c: &'a str) -> char { '\'' } // "nor this"
        let c = "three \"four\" \
                 five"; let d = r#"six "seven""#; let e = b"bytes are none";
        #[expect(unsafe_code, reason = "this is for others")]
    "##;
    assert_eq!(strings(text), ["one two", "three \\\"four\\\" five", "six \"seven\""]);
    assert!(is_prose("there is {}") && is_prose("{name:?} stays mounted: {e}") && is_prose("MOUNTED ON"));
    assert!(
        !is_prose("{}: {e}")
            && !is_prose("SELECT a FROM b")
            && !is_prose("id, name, gen")
            && !is_prose("mnt")
    );
}

#[test]
fn all_messages_are_in_the_list() {
    let mut list = String::new();
    for (file, found) in messages() {
        writeln!(list, "{file}").unwrap();
        found.iter().for_each(|message| writeln!(list, "    {}", message.replace('\n', "\\n")).unwrap());
    }
    let path = project().join("tests/messages.txt");
    if std::env::var_os(UPDATE).is_some() {
        fs::write(&path, &list).unwrap();
    }
    let listed = fs::read_to_string(&path).unwrap();
    let only = |one: &str, other: &str, mark: char| -> String {
        let of_other: std::collections::BTreeSet<&str> = other.lines().collect();
        one.lines().filter(|line| !of_other.contains(line)).map(|line| format!("{mark}{line}\n")).collect()
    };
    assert!(
        list == listed,
        "messages have changed. Read them: does each say what failed, on what, and what to do next, in plain English? Then run\n\
         \n    {UPDATE}=1 cargo test --test larder messages::all\n\nand commit tests/messages.txt.\n\n{}{}",
        only(&listed, &list, '-'),
        only(&list, &listed, '+')
    );
}

/// Turns of phrase that are not English, or do not say what is wrong.
#[test]
fn messages_are_idiomatic() {
    let odd = [
        "} is no ",
        "it is no ",
        "that is no ",
        "} are no ",
        "makes no sense",
        "cannot be:",
        "that cannot be",
        "none is needed",
    ];
    for (file, found) in messages() {
        for message in found {
            let odd = odd.iter().find(|odd| message.contains(*odd));
            assert!(
                odd.is_none(),
                "{file}: {message:?}: say \"is not a\", \"is invalid\" or what would be right, and not {odd:?}"
            );
        }
    }
}

/// What the chapter on troubleshooting says that the program says.
#[test]
fn messages_that_are_explained_exist() {
    let chapter = fs::read_to_string(project().join("docs/troubleshooting.md")).unwrap();
    let (_, table) = chapter.split_once("## By error message").expect("the section is there");
    let quoted = table.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0));
    let quoted: Vec<&str> = quoted.collect();
    assert!(quoted.len() > 10, "{quoted:?}");
    let messages: Vec<String> = messages().into_iter().flat_map(|(_, found)| found).collect();
    for quote in quoted {
        // What differs from case to case is in capitals there, and a placeholder here.
        let is_constant = |word: &str| word.len() < 2 || word.chars().any(|c| !c.is_ascii_uppercase());
        let mut parts = vec![String::new()];
        for word in quote.split(' ') {
            match is_constant(word) || word == "FUSE" {
                true => *parts.last_mut().unwrap() += &format!("{word} "),
                false => parts.push(String::new()),
            }
        }
        let says = |message: &&String| parts.iter().all(|part| message.contains(part.trim()));
        assert!(messages.iter().any(|message| says(&message)), "no message says {quote:?}");
    }
}

/// The help of a command, and of those below it.
fn help_of(command: &[&str], list: &mut String) {
    let output = std::process::Command::new(crate::support::larder())
        .args(command)
        .arg("--help")
        .env_remove("LARDER_ROOT")
        .env("COLUMNS", "100")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    writeln!(list, "larder {}\n", command.join(" ")).unwrap();
    let is_of_all = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        ["--root", "--json", "--verbose", "--help"]
            .iter()
            .any(|option| words.iter().take(2).any(|word| word == option))
    };
    let lines = text.lines().filter(|line| command.is_empty() || !is_of_all(line));
    lines.for_each(|line| writeln!(list, "    {}", line.trim_end()).unwrap());
    let (_, commands) = text.split_once("\nCommands:\n").unwrap_or_default();
    for line in commands.lines().take_while(|line| !line.is_empty()) {
        // A longer explanation goes on below.
        if let Some(name) =
            line.strip_prefix("  ").and_then(|rest| rest.split(' ').next()).filter(|name| !name.is_empty())
        {
            help_of(&[command, &[name]].concat(), list);
        }
    }
}

/// Help is read like messages: it stands in `tests/help.txt`.
#[test]
fn all_help_is_in_the_list() {
    let mut list = String::new();
    help_of(&[], &mut list);
    let path = project().join("tests/help.txt");
    if std::env::var_os(UPDATE).is_some() {
        fs::write(&path, &list).unwrap();
    }
    let listed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        list == listed,
        "help has changed. Read it in `git diff` after `{UPDATE}=1 cargo test --test larder messages::all`, and commit tests/help.txt"
    );
}
