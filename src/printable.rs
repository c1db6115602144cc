//! Text for a terminal or a log, of which a part may be somebody else's.
//!
//! Names, labels and whatever else a volume holds can be made of characters that move the cursor, forge lines or change
//! what a terminal does. JSON has its own way of writing them; everything else that people read goes through here.

use std::borrow::Cow;
use std::fmt::Write;
use std::io;

/// What the system says of an error, without its number, which says the same once more.
pub fn cause(e: &io::Error) -> String {
    let text = e.to_string();
    match text.find(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// Whether a terminal would do something else with it than show it. Besides control characters, those that turn the
/// direction of what follows.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escaped(text: &str, also: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(|c| acts(c) || also(c)) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if acts(c) && !matches!(c, '\n' | '\t' | '\r') {
            let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
        } else if acts(c) || also(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// A message in one line.
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, |_| false)
}

/// A name, so that no two names look alike: backslashes are escaped too.
pub fn printable_name(name: &str) -> Cow<'_, str> {
    escaped(name, |c| c == '\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_do_is_shown_instead() {
        for plain in ["", "a b", "häuser/猫", "\"quoted\" \\n"] {
            assert!(matches!(printable(plain), Cow::Borrowed(text) if text == plain));
        }
        assert_eq!(
            printable("\x1b]0;x\x07\n\t\r\x7f\u{9b}1m\u{202e}"),
            "\\u{1b}]0;x\\u{7}\\n\\t\\r\\u{7f}\\u{9b}1m\\u{202e}"
        );
        assert_eq!(printable_name("a\\nb"), "a\\\\nb");
        assert_eq!(printable_name("a\nb"), "a\\nb");
        assert_eq!(printable(&printable_name("a\\\n")), printable_name("a\\\n"));
    }
}
