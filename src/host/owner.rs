//! Users and groups, by number or by a name of this host.

use nix::unistd::{Group, User};

/// Reads the number of a user, or the name of one of this host's.
///
/// # Errors
/// What is wrong with it.
pub fn user(text: &str) -> Result<u32, String> {
    number_or(text, "user", |name| User::from_name(name).map(|user| user.map(|user| user.uid.as_raw())))
}

/// Reads the number of a group, or the name of one of this host's.
///
/// # Errors
/// What is wrong with it.
pub fn group(text: &str) -> Result<u32, String> {
    number_or(text, "group", |name| Group::from_name(name).map(|group| group.map(|group| group.gid.as_raw())))
}

fn number_or(
    text: &str,
    what: &str,
    named: impl FnOnce(&str) -> nix::Result<Option<u32>>,
) -> Result<u32, String> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // The largest means "as it is" to chown(2).
        return match text.parse() {
            Ok(number) if number != u32::MAX => Ok(number),
            _ => Err(format!("{text} is too large for the number of a {what}")),
        };
    }
    match named(text) {
        Ok(Some(number)) => Ok(number),
        Ok(None) => Err(format!("this host has no {what} {text:?}; write a number, such as 1000, or a name")),
        Err(e) => Err(format!("looking for the {what} {text:?}: {e}; write its number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_have_numbers_and_names() {
        assert_eq!(
            (user("root"), group("root"), user("0"), user("4294967294")),
            (Ok(0), Ok(0), Ok(0), Ok(u32::MAX - 1))
        );
        for bad in ["", "no-such-user", "-1", "1.5", "4294967295", "99999999999", "a\0b"] {
            assert!(user(bad).is_err() && group(bad).is_err(), "{bad:?}");
        }
        assert!(user("no-such-user").unwrap_err().contains("no user \"no-such-user\""));
    }
}
