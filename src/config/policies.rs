//! `[policies]`: what is demanded of volumes, whoever makes or resizes them.

use super::{Config, Setting, line_of};
use crate::size;
use serde::{Deserialize, Deserializer, de};
use toml::Spanned;

/// The table, as it is written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct Policies {
    require_size: Option<Spanned<bool>>,
    max_size: Option<Spanned<Limit>>,
}

/// A size limit, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limit(u64);

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let bytes = super::text(from, size::parse_limit)?;
        bytes.map(Self).ok_or_else(|| de::Error::custom("a size is missing"))
    }
}

impl Config {
    /// Whether every volume must have a size limit.
    pub fn requires_size(&self) -> bool {
        self.policies.require_size.as_ref().is_some_and(|require| *require.get_ref())
    }

    /// The largest size limit that a volume may have, in bytes; none if any will do.
    pub fn max_size(&self) -> Option<u64> {
        self.policies.max_size.as_ref().map(|max| max.get_ref().0)
    }

    /// Those policies that the file has.
    pub fn policies(&self) -> Vec<Setting> {
        let setting = |name: &str, value, at: usize| Setting {
            name: name.to_owned(),
            value,
            line: line_of(&self.text, at),
        };
        let Policies { require_size, max_size } = &self.policies;
        let require = require_size
            .iter()
            .map(|require| setting("require-size", require.get_ref().to_string(), require.span().start));
        let max = max_size
            .iter()
            .map(|max| setting("max-size", size::format_exact(max.get_ref().0), max.span().start));
        require.chain(max).collect()
    }
}
