//! Text of somebody else's, on its way to a terminal.

use larder::printable::{printable, printable_name};

pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for shown in [printable(&text), printable_name(&text)] {
        assert!(!shown.chars().any(char::is_control), "{shown:?}");
        assert_eq!(printable(&shown), shown, "what can be shown is shown as it is");
    }
}
