//! Databases of earlier versions: what changes in their schema.
//!
//! A store that is opened for writing is brought to the newest schema in one transaction, which becomes durable with the first
//! commit; its header says before that older programs cannot read it ([`crate::store::Feature`]). Who only looks at a store
//! changes nothing of it: temporary views stand before the tables that lack something.

use super::db::Db;
use super::error::{MetaError, Result};
use super::schema::SCHEMA_VERSION;

/// From one version of the schema to the next.
struct Step {
    /// The version that it leads to.
    to: i64,
    /// Changes the tables. They end as a new store has them, but for the order of columns.
    change: &'static str,
    /// Makes the tables of the version before look like those of the newest. Without a qualifier, SQLite finds a temporary view
    /// before a table of the same name.
    pretend: &'static str,
}

const STEPS: &[Step] = &[Step {
    to: 2,
    change: "
        ALTER TABLE volume ADD COLUMN meta_limit INTEGER;
        ALTER TABLE volume ADD COLUMN used_meta INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE snapshot ADD COLUMN used_meta INTEGER NOT NULL DEFAULT 0;",
    pretend: "
        CREATE TEMP VIEW volume AS SELECT *, NULL AS meta_limit, 0 AS used_meta FROM main.volume;
        CREATE TEMP VIEW snapshot AS SELECT *, 0 AS used_meta FROM main.snapshot;",
}];

impl Db {
    pub(super) fn schema_version(&self) -> Result<i64> {
        self.value("PRAGMA user_version")
    }

    /// Refuses a database with a schema that this program does not know.
    pub(super) fn check_schema_version(&self) -> Result<()> {
        let version = self.schema_version()?;
        if (1..=SCHEMA_VERSION).contains(&version) {
            return Ok(());
        }
        let path = self.files().database_path();
        let what = format!(
            "{} has schema version {version}, this program supports versions up to {SCHEMA_VERSION}; use a newer larder",
            path.display()
        );
        Err(MetaError::damaged(what))
    }

    /// Brings the schema up to date. No transaction may be open; the change is durable when the WAL is released up to here.
    pub(super) fn upgrade_schema(&self) -> Result<()> {
        let version = self.schema_version()?;
        if version == SCHEMA_VERSION {
            return Ok(());
        }
        let changes: String = STEPS.iter().filter(|step| step.to > version).map(|step| step.change).collect();
        self.run(&format!("BEGIN IMMEDIATE; {changes} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"))
    }

    /// Lets an older database look like one of the newest schema, for reading.
    pub(super) fn pretend_schema(&self) -> Result<()> {
        let version = self.schema_version()?;
        match STEPS.iter().find(|step| step.to == version + 1) {
            Some(step) => self.run(step.pretend),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_lead_to_the_newest_schema() {
        let to: Vec<i64> = STEPS.iter().map(|step| step.to).collect();
        assert_eq!(to, (2..=SCHEMA_VERSION).collect::<Vec<_>>());
    }
}
