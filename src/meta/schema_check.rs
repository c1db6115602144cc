//! Whether the tables of a database are those that larder makes.
//!
//! A store may come from anybody. What stands in `sqlite_schema` is SQL that SQLite runs whenever it uses a table: triggers,
//! views, CHECK constraints and generated columns of somebody else's could change what they like or never end. So no table
//! is used before its text was compared with ours, token by token: comments and spaces may differ, and the order of
//! columns does in a database that was upgraded.

use super::db::Db;
use super::error::{MetaError, Result};
use super::schema::{DDL, SCHEMA_VERSION};
use rusqlite::types::ValueRef;

/// More than this is not ours: rows of the schema, and bytes of one's text.
const ROWS_MAX: usize = 1000;
const TEXT_MAX: usize = 1 << 16;
/// The names of indexes that come with a constraint, and have no text.
const AUTO_INDEX: &str = "sqlite_autoindex_";

/// A statement that makes a table or an index.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Statement<'a> {
    /// What stands before the first parenthesis.
    head: Vec<&'a str>,
    /// The definitions in it, sorted.
    items: Vec<Vec<&'a str>>,
    /// What stands behind it.
    tail: Vec<&'a str>,
}

/// The tokens of a text, without comments; `None` for what larder's own never has: quotes, and characters that are not ASCII.
fn tokens(text: &str) -> Option<Vec<&str>> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.bytes().next() {
        let len = match first {
            b'-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            b' ' | b'\n' => 1,
            b'_' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => {
                rest.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(rest.len())
            }
            b'(' | b')' | b',' | b';' | b'=' | b'<' | b'>' | b'+' | b'-' | b'*' | b'&' | b'|' => 1,
            _ => return None,
        };
        let (token, more) = rest.split_at(len);
        if !token.starts_with("--") && token.trim() == token {
            out.push(token);
        }
        rest = more;
    }
    Some(out)
}

fn statement<'a>(tokens: &[&'a str]) -> Option<Statement<'a>> {
    let open = tokens.iter().position(|token| *token == "(")?;
    let mut items = vec![Vec::new()];
    let mut depth = 0usize;
    for (at, token) in tokens.iter().enumerate().skip(open + 1) {
        match *token {
            ")" if depth == 0 => {
                items.sort_unstable();
                return Some(Statement {
                    head: tokens[..open].to_vec(),
                    items,
                    tail: tokens[at + 1..].to_vec(),
                });
            }
            "," if depth == 0 => {
                items.push(Vec::new());
                continue;
            }
            "(" => depth += 1,
            ")" => depth -= 1,
            _ => {}
        }
        items.last_mut()?.push(*token);
    }
    None
}

/// The statements of a script.
fn statements(text: &str) -> Option<Vec<Statement<'_>>> {
    let tokens = tokens(text)?;
    let parts = tokens.split(|token| *token == ";").filter(|part| !part.is_empty());
    parts.map(statement).collect()
}

/// What of these texts is not larder's, in a database of this version of the schema; `None` if all is as it should be.
fn foreign(version: i64, texts: &[&str]) -> Option<String> {
    let Some(ours) = statements(DDL) else { return Some("(none is known)".into()) };
    let mut missing: Vec<&Statement<'_>> = ours.iter().collect();
    for text in texts {
        let start: String = text.chars().take(60).collect();
        let Some(found) = tokens(text).as_deref().and_then(statement) else { return Some(start) };
        let same = |own: &&Statement<'_>| {
            own.head == found.head
                && own.tail == found.tail
                && match version {
                    SCHEMA_VERSION => own.items == found.items,
                    // What was added since is not there yet.
                    _ => found.items.iter().all(|item| own.items.contains(item)),
                }
        };
        let Some(at) = missing.iter().position(same) else { return Some(start) };
        missing.swap_remove(at);
    }
    match missing.first() {
        Some(own) if version == SCHEMA_VERSION => Some(format!("no {}", own.head.join(" "))),
        _ => None,
    }
}

/// For the fuzzer: what is taken for larder's has no token that larder's has not.
#[cfg(feature = "fuzzing")]
pub(super) fn fuzzed(text: &str) {
    if foreign(SCHEMA_VERSION - 1, &[text]).is_none() {
        let own = tokens(DDL).unwrap_or_default();
        assert!(tokens(text).is_some_and(|tokens| tokens.iter().all(|token| own.contains(token))));
    }
}

impl Db {
    /// Refuses a database whose tables are not larder's. To be called before anything but `sqlite_schema` is read.
    ///
    /// # Errors
    /// Damage, or as the database.
    pub(super) fn check_schema(&self, version: i64) -> Result<()> {
        let path = self.files().database_path();
        let refused = |what: &str| {
            MetaError::damaged(format!("{} has tables that are not larder's: {what:?}", path.display()))
        };
        let mut statement = self.prepare("SELECT type, name, sql FROM sqlite_schema")?;
        let mut rows = statement.query([]).map_err(|e| self.explain(e))?;
        let mut texts: Vec<String> = Vec::new();
        while let Some(row) = rows.next().map_err(|e| self.explain(e))? {
            let name = row.get_ref(1)?.as_str().unwrap_or("?").to_owned();
            match row.get_ref(2)? {
                ValueRef::Null => {
                    let kind = row.get_ref(0)?;
                    if kind.as_str() != Ok("index") || !name.starts_with(AUTO_INDEX) {
                        return Err(refused(&name));
                    }
                }
                text => match text.as_str() {
                    Ok(text) if text.len() <= TEXT_MAX && texts.len() < ROWS_MAX => {
                        texts.push(text.to_owned());
                    }
                    _ => return Err(refused(&name)),
                },
            }
        }
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        foreign(version, &texts).map_or(Ok(()), |what| Err(refused(&what)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The texts as SQLite keeps them.
    fn kept() -> Vec<String> {
        let db = rusqlite::Connection::open_in_memory().unwrap();
        db.execute_batch(DDL).unwrap();
        let mut statement = db.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL").unwrap();
        let texts = statement.query_map([], |row| row.get(0)).unwrap();
        texts.map(Result::unwrap).collect()
    }

    fn check(version: i64, texts: &[String]) -> Option<String> {
        foreign(version, &texts.iter().map(String::as_str).collect::<Vec<_>>())
    }

    #[test]
    fn own_tables_are_known_whatever_their_comments() {
        let texts = kept();
        assert_eq!(check(SCHEMA_VERSION, &texts), None);
        let bare: Vec<String> = texts
            .iter()
            .map(|text| tokens(text).unwrap().join("  ").replace(" ,", "\n-- one, more;\n,"))
            .collect();
        assert_eq!(check(SCHEMA_VERSION, &bare), None);
    }

    #[test]
    fn every_word_that_is_not_ours_is_found() {
        let texts = kept();
        for (at, text) in texts.iter().enumerate() {
            let words = tokens(text).unwrap();
            for word in 0..words.len() {
                for other in ["x", "-- ", "'", "(", ")", ","] {
                    let mut changed = words.clone();
                    changed[word] = other;
                    let mut bad = texts.clone();
                    bad[at] = changed.join(" ");
                    if tokens(&bad[at]).is_some_and(|tokens| tokens == words) {
                        continue;
                    }
                    assert!(check(SCHEMA_VERSION, &bad).is_some(), "{:?}", bad[at]);
                }
            }
            let mut less = texts.clone();
            less.remove(at);
            assert!(check(SCHEMA_VERSION, &less).is_some(), "without {text}");
        }
        for more in [
            "CREATE TRIGGER t AFTER UPDATE ON store BEGIN SELECT 1; END",
            "CREATE VIEW v AS SELECT 1",
            "CREATE TABLE store (a)",
            "CREATE TABLE more (a)",
            "CREATE VIRTUAL TABLE v USING fts5(a)",
            "CREATE INDEX i ON inode (abs(ino))",
            "CREATE TABLE \"store\" (one)",
            "",
            "\0",
            "(((((",
        ] {
            for version in [SCHEMA_VERSION, SCHEMA_VERSION - 1] {
                let bad = [texts.clone(), vec![more.to_owned()]].concat();
                assert!(check(version, &bad).is_some(), "{more}");
            }
        }
    }

    #[test]
    fn older_tables_lack_columns_and_have_no_others() {
        let mut texts = kept();
        let at = texts.iter().position(|text| text.starts_with("CREATE TABLE volume")).unwrap();
        texts[at] = texts[at].replace("inode_limit INTEGER,", "");
        assert!(check(SCHEMA_VERSION, &texts).is_some());
        assert_eq!(check(SCHEMA_VERSION - 1, &texts), None);
        texts[at] = texts[at].replace("size_limit  INTEGER,", "size_limit INTEGER CHECK (size_limit > 1),");
        assert!(check(SCHEMA_VERSION - 1, &texts).is_some());
    }
}
