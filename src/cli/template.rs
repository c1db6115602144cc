//! `--format`: templates as Docker has them, as far as they are used to print fields.

use super::output::json_text;
use crate::nearest::nearest;
use crate::printable::printable;
use serde_json::{Map, Value};

/// A template that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    parts: Vec<Part>,
    /// With headings, and in columns.
    pub(super) is_table: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Field {
        function: Function,
        path: Vec<String>,
    },
    /// `{{.Label "key"}}`
    Label(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    None,
    Json,
    Upper,
    Lower,
}

/// Reads a template.
///
/// # Errors
/// What is not understood.
pub(super) fn parse_template(text: &str) -> Result<Template, String> {
    let (is_table, text) = match text.strip_prefix("table ") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    // Docker's short words.
    let text = match text {
        "json" => "{{json .}}",
        "table" => return Err("say which columns the table has: table {{.Name}}\\t{{.Size}}".into()),
        other => other,
    };
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        if !before.is_empty() {
            parts.push(Part::Text(unescaped(before)));
        }
        let (action, after) =
            after.split_once("}}").ok_or_else(|| format!("{text:?}: a \"{{{{\" has no \"}}}}\""))?;
        parts.push(parse_action(action.trim_matches(['-', ' ']))?);
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(unescaped(rest)));
    }
    Ok(Template { parts, is_table })
}

/// What a shell has left of `\t` and `\n`.
fn unescaped(text: &str) -> String {
    text.replace(r"\t", "\t").replace(r"\n", "\n")
}

fn parse_action(action: &str) -> Result<Part, String> {
    let refuse = |why: &str| {
        Err(format!(
            "{{{{{action}}}}}: {why}; a template can have {{{{.Field}}}}, {{{{json .Field}}}}, {{{{upper .Field}}}}, {{{{lower .Field}}}} and {{{{.Label \"KEY\"}}}}"
        ))
    };
    if let Some(key) = action.strip_prefix(".Label ") {
        let key = key.trim().strip_prefix('"').and_then(|key| key.strip_suffix('"'));
        return key.map_or_else(
            || refuse("the key of a label is written in double quotes"),
            |key| Ok(Part::Label(key.to_owned())),
        );
    }
    let (function, field) = match action.split_once(char::is_whitespace) {
        Some(("json", field)) => (Function::Json, field.trim()),
        Some(("upper", field)) => (Function::Upper, field.trim()),
        Some(("lower", field)) => (Function::Lower, field.trim()),
        Some(_) => return refuse("larder's templates cannot do that"),
        None => (Function::None, action),
    };
    let Some(path) = field.strip_prefix('.') else { return refuse("a field begins with a dot") };
    let fine = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let path: Vec<String> =
        if path.is_empty() { Vec::new() } else { path.split('.').map(str::to_owned).collect() };
    match path.iter().all(|part| fine(part)) {
        true => Ok(Part::Field { function, path }),
        false => refuse("that is not the name of a field"),
    }
}

impl Template {
    /// Checks that there are the fields that it names.
    ///
    /// # Errors
    /// The first that there is not, with what was meant.
    pub(super) fn check(&self, fields: &[&str]) -> Result<(), String> {
        for part in &self.parts {
            let Part::Field { path, .. } = part else { continue };
            if let Some(name) = path.first().filter(|name| !fields.contains(&name.as_str())) {
                let what = match nearest(name, fields.iter().copied()) {
                    Some(meant) => format!("did you mean .{meant}?"),
                    None => format!("the fields are {}", fields.join(", ")),
                };
                return Err(format!("there is no field .{name}; {what}"));
            }
        }
        Ok(())
    }

    /// A row: the fields of `object`, which has its labels in `labels`. Tabs and newlines are the template's own: those of values, and
    /// what else terminals act on, are written as text.
    pub(super) fn render(&self, object: &Map<String, Value>, labels: &Map<String, Value>) -> String {
        let part = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Label(key) => printable(&labels.get(key).map(plain).unwrap_or_default()).into_owned(),
            Part::Field { function, path } => {
                let whole = Value::Object(object.clone());
                let value =
                    path.iter().try_fold(&whole, |value, name| value.get(name)).unwrap_or(&Value::Null);
                let text = match function {
                    Function::Json => return json_text(value),
                    Function::None => plain(value),
                    Function::Upper => plain(value).to_uppercase(),
                    Function::Lower => plain(value).to_lowercase(),
                };
                printable(&text).into_owned()
            }
        };
        self.parts.iter().map(part).collect()
    }

    /// The headings of a table: what each field is called.
    pub(super) fn heading(&self) -> String {
        let heading = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Label(key) => key.clone(),
            Part::Field { path, .. } => path.last().map(|name| words(name)).unwrap_or_default(),
        };
        self.parts.iter().map(heading).collect()
    }
}

/// `UsedOnDisk` as the heading `USED ON DISK`.
fn words(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push(' ');
        }
        out.push(c.to_ascii_uppercase());
    }
    out
}

/// A value as text.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rendered(template: &str) -> String {
        let Value::Object(object) = json!({ "Name": "db", "Size": "10G", "Labels": "app=shop", "Sub": { "A": 1 }, "Odd": "a\tb\n\u{9b}" })
        else {
            unreachable!()
        };
        let Value::Object(labels) = json!({ "app": "shop", "odd": "\u{1b}" }) else { unreachable!() };
        parse_template(template).unwrap().render(&object, &labels)
    }

    #[test]
    fn templates_print_what_dockers_would() {
        for (template, printed) in [
            ("{{.Name}}", "db"),
            ("{{ .Name }}: {{.Size}}", "db: 10G"),
            (r"{{.Name}}\t{{.Size}}", "db\t10G"),
            ("{{json .Name}}", "\"db\""),
            ("{{upper .Name}}{{lower .Size}}", "DB10g"),
            ("{{.Label \"app\"}}{{.Label \"none\"}}", "shop"),
            ("{{.Sub.A}}{{.Sub.B}}", "1"),
            ("plain", "plain"),
            ("{{- .Name -}}", "db"),
            // What a value has of tabs, newlines and worse is no part of the layout, and JSON stays JSON.
            (r"{{.Odd}}\t{{.Name}}", "a\\tb\\n\\u{9b}\tdb"),
            ("{{.Label \"odd\"}}\\n{{json .Odd}}", "\\u{1b}\n\"a\\tb\\n\\u009b\""),
        ] {
            assert_eq!(rendered(template), printed, "{template}");
        }
        let all: Value = serde_json::from_str(&rendered("{{json .}}")).unwrap();
        assert_eq!((&all["Name"], rendered("json")), (&json!("db"), rendered("{{json .}}")));
        let table = parse_template(r"table {{.Name}}\t{{.UsedOnDisk}}").unwrap();
        assert!(table.is_table);
        assert_eq!(table.heading(), "NAME\tUSED ON DISK");
    }

    #[test]
    fn what_is_not_understood_says_so() {
        for bad in [
            "{{.Name",
            "{{range .}}x{{end}}",
            "{{Name}}",
            "{{.Na me}}",
            "{{..}}",
            "{{.Label app}}",
            "table",
            "{{}}",
        ] {
            assert!(parse_template(bad).is_err(), "{bad}");
        }
        let template = parse_template("{{.Nmae}}").unwrap();
        assert_eq!(
            template.check(&["Name", "Size"]).unwrap_err(),
            "there is no field .Nmae; did you mean .Name?"
        );
        assert!(parse_template("{{json .}}{{.Name}}").unwrap().check(&["Name"]).is_ok());
    }
}
