//! The directions of the layers, and a few rules of style, enforced. `ARCHITECTURE.md` says why.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(dir: &str, extension: &str) -> Vec<(PathBuf, String)> {
    let mut out = Vec::new();
    let mut pending = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(dir)];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                out.push((path.clone(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(!out.is_empty());
    out
}

/// The layer that a source file belongs to: the module right below the crate.
fn layer(path: &Path) -> String {
    let inside = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    inside.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// Lines of code, without comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}

#[test]
fn layers_point_one_way() {
    // Each may use those listed, and itself.
    let allowed: &[(&str, &[&str])] = &[
        ("backing", &[]),
        ("crypto", &[]),
        ("store", &["backing", "crypto"]),
        ("meta", &["backing", "crypto", "store"]),
        ("scheduling", &[]),
        ("open_store", &["backing", "crypto", "store", "meta", "remote", "scheduling"]),
        ("fs", &["store", "meta", "open_store"]),
        ("fuse", &["fs", "memory", "meta", "scheduling"]),
        ("memory", &[]),
        ("size", &[]),
        ("printable", &[]),
        ("nearest", &[]),
        ("period", &[]),
        ("config", &["backing", "nearest", "period", "printable", "root", "size"]),
        ("exit_code", &[]),
        ("remote", &["backing", "config", "crypto", "durable", "nearest", "store"]),
        ("root", &["backing", "store"]),
        ("durable", &["backing"]),
        ("health", &["backing", "durable", "root", "store"]),
        (
            "volume",
            &["backing", "crypto", "store", "meta", "open_store", "remote", "root", "exit_code", "size"],
        ),
        ("mount", &["fs", "fuse", "scheduling", "size", "exit_code", "volume"]),
        (
            "server",
            &[
                "backing",
                "config",
                "memory",
                "printable",
                "crypto",
                "store",
                "meta",
                "open_store",
                "remote",
                "fs",
                "fuse",
                "root",
                "exit_code",
                "volume",
                "mount",
                "health",
                "scheduling",
            ],
        ),
        (
            "host",
            &[
                "backing",
                "config",
                "nearest",
                "crypto",
                "store",
                "meta",
                "open_store",
                "remote",
                "fuse",
                "root",
                "exit_code",
                "period",
                "printable",
                "size",
                "volume",
                "mount",
                "server",
                "durable",
                "health",
            ],
        ),
        ("plugin", &["backing", "store", "root", "exit_code", "volume", "mount", "host"]),
    ];
    for (path, text) in sources("src", "rs") {
        let layer = layer(&path);
        if matches!(layer.as_str(), "main" | "lib" | "cli" | "fuzzing") {
            continue;
        }
        let (_, uses) = allowed
            .iter()
            .find(|(name, _)| *name == layer)
            .unwrap_or_else(|| panic!("unknown layer {layer}"));
        for line in code(&text) {
            for used in line.split("crate::").skip(1) {
                let used: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let fine = used == layer || uses.contains(&used.as_str());
                assert!(fine, "{}: {layer} must not use {used}: {line}", path.display());
            }
        }
    }
}

#[test]
fn only_one_layer_names_each_foreign_world() {
    for (path, text) in sources("src", "rs") {
        let layer = layer(&path);
        for (world, homes) in [
            ("fuser", "fuse"),
            ("zerocopy", "fuse"),
            ("io_uring", "fuse"),
            ("rusqlite", "meta"),
            ("clap", "cli"),
            ("toml", "config"),
            ("nix::mount", "mount"),
            ("rustix", "mount"),
            ("aws_lc_rs", "crypto"),
            ("argon2", "crypto"),
            ("hkdf", "crypto"),
            ("sha2", "crypto"),
            ("hyper", "plugin"),
            ("hyper_util", "plugin"),
            ("http_body_util", "plugin"),
            ("tokio", "plugin, remote"),
            ("object_store", "remote"),
            ("async_trait", "remote"),
            ("futures_util", "remote"),
        ] {
            let named = code(&text).any(|line| line.contains(&format!("{world}::")));
            let fine = homes.split(", ").any(|home| layer == home);
            assert!(!named || fine, "{}: only {homes} may name {world}", path.display());
        }
    }
}

#[test]
fn files_stay_small() {
    for (path, text) in sources("src", "rs").into_iter().chain(sources("tests", "rs")) {
        let lines = text.lines().count();
        assert!(lines <= 800, "{}: {lines} lines", path.display());
    }
}

/// In a shell script, a command behind an exclamation mark never ends it, also under `set -e`: what such a line says is not tested.
#[test]
fn scripts_of_tests_say_with_if_what_must_fail() {
    for (path, text) in [sources("tests", "rs"), sources("tests", "sh")].concat() {
        for line in code(&text) {
            for (at, _) in line.match_indices("! ") {
                let (before, after) = (line[..at].trim_end(), &line[at + 2..]);
                let is_command = after.starts_with(|c: char| c.is_ascii_lowercase() || "($/".contains(c));
                let word = before.rsplit([' ', ';', '(']).next().unwrap_or_default();
                let condition = ["if", "elif", "while", "until", "["].contains(&word)
                    || ["wait_for(\"", "wait_for(&format!(\"", "until_true '"]
                        .iter()
                        .any(|c| before.ends_with(c))
                    || before.contains("wait_for(\"") && before.ends_with("&&");
                let begins = before.is_empty()
                    || before.ends_with([';', '{', '"', '\'', '(', '&', '|'])
                    || ["do", "then", "else"].contains(&word);
                assert!(
                    !is_command || !begins || condition,
                    "{}: `if ...; then exit 1; fi` is what can fail: {line}",
                    path.display()
                );
            }
        }
    }
}
