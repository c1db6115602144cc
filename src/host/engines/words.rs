//! The words of what was written for systemd and for shells: command lines, and values of variables that are parts of them.

/// Values of variables that hold values of variables, and so on, are looked into so far.
const DEPTH_MAX: u8 = 4;

/// The words of units, of files of variables and of command lines, each as it is without its quotation marks. Names of settings and
/// variables in front of values (`ExecStart=`, `DOCKER_OPTS=`) are left out, and values of several words are taken apart.
pub(super) fn words(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in joined(text).lines() {
        add_words(line, DEPTH_MAX, &mut found);
    }
    found
}

/// What the lines of a unit, or of a file of variables, say that begin with a name: `NAME=VALUE`.
pub(super) fn values_of(text: &str, name: &str) -> Vec<String> {
    let text = joined(text);
    let settings = text.lines().filter_map(|line| line.split_once('='));
    settings.filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned()).collect()
}

/// Without comments, and with the lines together that belong together.
fn joined(text: &str) -> String {
    let is_comment = |line: &&str| line.trim_start().starts_with(['#', ';']);
    let lines: Vec<&str> = text.lines().filter(|line| !is_comment(line)).collect();
    lines.join("\n").replace("\\\n", " ")
}

fn add_words(line: &str, depth: u8, found: &mut Vec<String>) {
    // With an apostrophe, say; or a value that goes on in the next line.
    let tokens = split(line)
        .unwrap_or_else(|| line.replace(['"', '\''], " ").split_whitespace().map(str::to_owned).collect());
    for token in tokens {
        let value = assigned(&token);
        let has_more = value.contains(char::is_whitespace) && !value.starts_with('/');
        let is_option = value.len() == token.len()
            && value
                .split_whitespace()
                .next()
                .is_some_and(|first| first.starts_with('-') && first.contains('='));
        match depth.checked_sub(1).filter(|_| has_more && !is_option) {
            Some(depth) => add_words(value, depth, found),
            None if value.is_empty() && !token.is_empty() => {}
            None => found.push(value.to_owned()),
        }
    }
}

/// What stands behind the names of variables.
fn assigned(token: &str) -> &str {
    let mut value = token;
    while let Some((name, rest)) = value.split_once('=') {
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !is_name {
            break;
        }
        value = rest;
    }
    value
}

/// A line's words; none if a quotation mark has no other.
fn split(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' if quote != Some('\'') => word.get_or_insert_default().extend(rest.next()),
            '"' | '\'' if quote == Some(c) => quote = None,
            '"' | '\'' if quote.is_none() => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            c if c.is_whitespace() && quote.is_none() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_however_they_are_quoted() {
        for (text, wanted) in [
            ("DOCKER_OPTS='--data-root /srv/a -x'", &["--data-root", "/srv/a", "-x"][..]),
            ("export DOCKER_OPTS=--data-root=/srv/a", &["export", "--data-root=/srv/a"]),
            (
                "Environment=\"DOCKER_OPTS=--data-root=/a --host=/b\" X=y",
                &["--data-root=/a", "--host=/b", "y"],
            ),
            (
                "ExecStart = /usr/bin/dockerd -g \\\n# c\n  '/srv/my docker'",
                &["ExecStart", "=", "/usr/bin/dockerd", "-g", "/srv/my docker"],
            ),
            ("\"--data-root=/srv/my docker\"", &["--data-root=/srv/my docker"]),
            ("'--data-root /srv/a'", &["--data-root", "/srv/a"]),
            (
                "ExecStart=/bin/sh -c \"exec dockerd --data-root '/my a'\"",
                &["/bin/sh", "-c", "exec", "dockerd", "--data-root", "/my a"],
            ),
            ("A=\"--x\n --data-root /a\"", &["--x", "--data-root", "/a"]),
            ("Description=Docker's -g /a", &["Docker", "s", "-g", "/a"]),
            ("# -g /a\n ; -g /b\n", &[]),
        ] {
            let wanted: Vec<String> = wanted.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(words(text), wanted, "{text}");
        }
        // However deep it goes, it comes to an end.
        assert_eq!(words(&"a=".repeat(100_000)), [""; 0]);
        words(&"\"a=\\".repeat(10_000));
    }

    #[test]
    fn values_of_settings_are_found() {
        let text = "EnvironmentFile=-/etc/a\n EnvironmentFile = /etc/b\n#EnvironmentFile=/no\nOther=/c\n";
        assert_eq!(values_of(text, "EnvironmentFile"), ["-/etc/a", "/etc/b"]);
    }
}
