//! Volumes that Docker's own driver makes, and what to say to whoever asks larder for one.

use std::collections::BTreeMap;

/// Where a password begins in the options of a mount, and so what must not be repeated.
const SECRET: &[&str] = &["password=", "pass=", "password2=", "secret="];

/// The command that makes a volume of another type, with the options that were given for it.
pub(super) fn by_local_driver(kind: &str, given: &BTreeMap<String, String>) -> String {
    let options = given.iter().filter(|(key, _)| matches!(key.as_str(), "type" | "o" | "device"));
    let options = options
        .map(|(key, value)| format!(" --opt {}", quoted(&format!("{key}={}", without_secrets(value)))));
    format!(
        "larder makes no volumes of type {kind:?}; use Docker's local driver for that: docker volume create --driver local{} NAME",
        options.collect::<String>()
    )
}

/// What to do about an option that belongs to another driver or elsewhere.
pub(super) fn advice(key: &str) -> Option<&'static str> {
    Some(match key {
        "sshcmd" => "use the driver vieux/sshfs for files on another host",
        "volumetype" | "iops" => "leave it out: the volume is on a disk of this host",
        "cached" | "delegated" | "consistent" => {
            "leave it out, or write it where a container uses the volume, as in -v NAME:/data:cached"
        }
        _ => return None,
    })
}

fn without_secrets(list: &str) -> String {
    let hidden = list.split(',').map(|option| {
        match SECRET.iter().find(|secret| option.to_ascii_lowercase().starts_with(**secret)) {
            Some(secret) => format!("{secret}..."),
            None => option.to_owned(),
        }
    });
    hidden.collect::<Vec<_>>().join(",")
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=,./:@%+".contains(c);
    match word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_is_said_again_for_the_other_driver() {
        let given = |options: &[(&str, &str)]| {
            options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let nfs = given(&[
            ("type", "nfs"),
            ("o", "addr=192.168.1.1,rw"),
            ("device", ":/path/to/dir"),
            ("size", "1G"),
        ]);
        assert!(by_local_driver("nfs", &nfs).ends_with(
            ": docker volume create --driver local --opt device=:/path/to/dir --opt o=addr=192.168.1.1,rw --opt type=nfs NAME"
        ));
        let cifs = given(&[
            ("type", "cifs"),
            ("device", "//host/it's a share"),
            ("o", "username=me,password=hunter2,vers=3.0"),
        ]);
        let said = by_local_driver("cifs", &cifs);
        assert!(
            said.contains(r"--opt 'device=//host/it'\''s a share' --opt o=username=me,password=...,vers=3.0"),
            "{said}"
        );
    }
}
