//! The connection to `meta.db`: settings, creation, the open transaction, checkpoints.

use super::cache::PAGES_MAX;
use super::error::{MetaError, Result};
use super::schema::{APPLICATION_ID, DDL, SCHEMA_VERSION};
use super::vfs::{MetaFiles, PAGE_BYTES};
use crate::store::StoreId;
use rusqlite::config::DbConfig;
use rusqlite::{CachedStatement, Connection, ffi};
use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Memory for pages of the database.
const PAGE_CACHE_KIB: i64 = (PAGES_MAX / 1024) as i64;
/// Memory for pages on the connection that only copies the WAL back.
const CHECKPOINT_CACHE_KIB: i64 = 1024;
/// How long SQLite waits for locks of other connections: what rusqlite sets.
const BUSY_PATIENCE: Duration = Duration::from_secs(5);
/// Rows after which changed pages are written to the WAL: a commit writes what is left under its hold.
const SPILL_ROWS: u64 = 512;
/// Distinct SQL texts are few; all of them stay prepared.
const PREPARED_STATEMENTS: usize = 128;

/// A connection, and the files it stands on.
#[derive(Debug)]
pub(super) struct Db {
    conn: Connection,
    files: Arc<MetaFiles>,
    /// Rows added to `shadow` by this connection.
    notes: Cell<u64>,
    /// A cached row that had changed could not be written: what a commit would make durable is not what was applied.
    lost_rows: Cell<bool>,
    rows: Cell<u64>,
    /// What `rows` was when changed pages were written to the WAL last.
    spilled: Cell<u64>,
    /// When whoever holds the metadata should let go of them.
    until: Cell<Option<Instant>>,
    /// Memory for what is cached of all volumes and snapshots, in bytes.
    rows_limit: Cell<usize>,
    /// Memory for pages, in KiB.
    pages_kib: Cell<i64>,
}

impl Db {
    fn of(conn: Connection, files: Arc<MetaFiles>) -> Self {
        let (notes, rows, lost_rows) = (Cell::new(0), Cell::new(0), Cell::new(false));
        let (spilled, until) = (Cell::new(0), Cell::new(None));
        let (rows_limit, pages_kib) = (Cell::new(usize::MAX), Cell::new(0));
        Self { conn, files, notes, lost_rows, rows, spilled, until, rows_limit, pages_kib }
    }

    /// Makes the database of a new store, with its tables, durable when this returns.
    pub(super) fn create(files: Arc<MetaFiles>, store: StoreId, name_key: [u8; 16]) -> Result<Self> {
        let conn = files.connect(true).map_err(|e| explain(e, &files))?;
        let db = Self::of(conn, files);
        db.reserve_page_bytes()?;
        db.settings(PAGE_CACHE_KIB)?;
        db.run("PRAGMA synchronous = FULL")?;
        // The database and its WAL are all the files there are. Whoever makes a store throws it away if that fails.
        db.run("PRAGMA journal_mode = MEMORY")?;
        db.let_shrink()?;
        db.run(&format!(
            "BEGIN IMMEDIATE; {DDL}
             PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};"
        ))?;
        db.prepare("INSERT INTO store VALUES (1, ?1, ?2, 2, 1, 1, 1, 1)")?
            .execute((store.0.to_be_bytes(), name_key))
            .map_err(|e| db.explain(e))?;
        db.run("COMMIT")?;
        // COMMIT has synced the database; from here on the store has a WAL.
        db.enter_wal()?;
        Ok(db)
    }

    /// Opens the database of an existing store and checks that it is one.
    pub(super) fn open(files: Arc<MetaFiles>, store: StoreId, read_only: bool) -> Result<Self> {
        if files.is_cut_to_nothing() {
            return Err(MetaError::damaged(format!("{} is cut off", files.database_path().display())));
        }
        let conn = files.connect(false).map_err(|e| explain(e, &files))?;
        do_without_lookaside(&conn);
        let db = Self::of(conn, files);
        db.settings(PAGE_CACHE_KIB)?;
        if db.value::<i64>("PRAGMA application_id")? != APPLICATION_ID {
            return Err(MetaError::damaged(format!("{} is not a larder database", db.path())));
        }
        db.check_schema_version()?;
        db.check_schema(db.schema_version()?)?;
        let id: Vec<u8> = db.value("SELECT id FROM store")?;
        if id != store.0.to_be_bytes() {
            return Err(MetaError::damaged(format!("{} belongs to another store", db.path())));
        }
        if read_only {
            db.pretend_schema()?;
        } else {
            db.enter_wal()?;
        }
        Ok(db)
    }

    /// A second connection to the same files, for checkpoints or for reading beside the first.
    pub(super) fn second(&self) -> Result<Self> {
        Self::beside(Arc::clone(&self.files))
    }

    /// As [`Db::second`], for who has the files only.
    pub(super) fn beside(files: Arc<MetaFiles>) -> Result<Self> {
        let conn = files.connect(false).map_err(|e| explain(e, &files))?;
        do_without_lookaside(&conn);
        let db = Self::of(conn, files);
        db.settings(CHECKPOINT_CACHE_KIB)?;
        Ok(db)
    }

    fn settings(&self, cache_kib: i64) -> Result<()> {
        self.pages_kib.set(cache_kib);
        self.conn.set_prepared_statement_cache_capacity(PREPARED_STATEMENTS);
        for (config, on) in [
            // Whether the WAL may be copied back, only the commit protocol knows.
            (DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true),
            // Without this, every value bound to `gen <= ?` makes SQLite plan the statement anew.
            (DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true),
            // Whatever `check_schema` might miss does nothing. (Temporary views, which are our own, are allowed.)
            (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
            (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
            (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
            (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
            (DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, false),
        ] {
            self.conn.set_db_config(config, on).map_err(|e| self.explain(e))?;
        }
        // NORMAL: checkpoints sync the database around what they copy.
        self.run(&format!(
            "PRAGMA page_size = {PAGE_BYTES}; PRAGMA cache_size = -{cache_kib}; PRAGMA synchronous = NORMAL;
             PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;
             PRAGMA foreign_keys = OFF;"
        ))
    }

    fn enter_wal(&self) -> Result<()> {
        let mode: String = self.value("PRAGMA journal_mode = WAL")?;
        if mode != "wal" {
            return Err(MetaError::damaged(format!("{} cannot be put into WAL mode", self.path())));
        }
        // FULL: the VFS is asked to sync the WAL at the one moment at which a commit is whole and has not taken effect. What it
        // does then, the commit protocol decides.
        self.run("PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0;")?;
        Ok(())
    }

    /// Leaves the last bytes of each page of a new database to its seal.
    #[expect(unsafe_code, reason = "rusqlite has no wrapper for this file control")]
    fn reserve_page_bytes(&self) -> Result<()> {
        let mut bytes = self.files.reserved_bytes() as std::ffi::c_int;
        // SAFETY: the handle is open, the name is a C string, and the argument is the int that the control asks for.
        let code = unsafe {
            ffi::sqlite3_file_control(
                self.conn.handle(),
                c"main".as_ptr(),
                ffi::SQLITE_FCNTL_RESERVE_BYTES,
                (&raw mut bytes).cast(),
            )
        };
        if code == ffi::SQLITE_OK {
            Ok(())
        } else {
            Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None).into())
        }
    }

    /// Gives up the open transaction, if SQLite has not done so, and begins another.
    pub(super) fn begin_again(&self) -> Result<()> {
        if !self.conn.is_autocommit() {
            self.run("ROLLBACK")?;
        }
        self.files.forget_held();
        self.run("BEGIN")
    }

    /// Writes the changed pages of the open transaction to the WAL in memory, if so many rows were looked at or written since the last
    /// time that there may be many. To be called between two pieces of work.
    ///
    /// # Errors
    /// As SQLite, whose transaction is then lost.
    #[expect(unsafe_code, reason = "rusqlite has no wrapper for this")]
    pub(super) fn spill(&self) -> Result<()> {
        let rows = self.rows.get();
        if rows - self.spilled.get() < SPILL_ROWS {
            return Ok(());
        }
        self.spilled.set(rows);
        // SAFETY: the handle is open, and used by nobody else while this connection is borrowed.
        match unsafe { ffi::sqlite3_db_cacheflush(self.conn.handle()) } {
            ffi::SQLITE_OK | ffi::SQLITE_BUSY => Ok(()),
            code => Err(self.explain(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None))),
        }
    }

    /// Gives back pages and prepared statements that nobody uses.
    #[expect(unsafe_code, reason = "rusqlite has no wrapper for this")]
    pub(super) fn shed(&self) {
        self.conn.flush_prepared_statement_cache();
        // SAFETY: the handle is open, and used by nobody else while this connection is borrowed.
        unsafe { ffi::sqlite3_db_release_memory(self.conn.handle()) };
    }

    /// Memory for what is cached of all volumes and snapshots.
    pub(super) fn rows_limit(&self) -> usize {
        self.rows_limit.get()
    }

    /// Limits what is cached from now on: of rows, which whoever caches them heeds, and of pages, which is done when this returns. In bytes.
    ///
    /// # Errors
    /// As SQLite.
    pub(super) fn limit_caches(&self, rows: usize, pages: usize) -> Result<()> {
        self.rows_limit.set(rows);
        let kib = (pages / 1024) as i64;
        if self.pages_kib.replace(kib) == kib {
            return Ok(());
        }
        self.run(&format!("PRAGMA cache_size = -{kib}"))
    }

    /// Memory of the pages that are cached.
    #[expect(unsafe_code, reason = "rusqlite has no wrapper for this")]
    pub(super) fn cached_page_bytes(&self) -> usize {
        let (mut bytes, mut most) = (0, 0);
        let what = ffi::SQLITE_DBSTATUS_CACHE_USED;
        // SAFETY: the handle is open, and used by nobody else while this connection is borrowed; both numbers are there to be written to.
        let code = unsafe { ffi::sqlite3_db_status(self.conn.handle(), what, &mut bytes, &mut most, 0) };
        if code == ffi::SQLITE_OK { usize::try_from(bytes).unwrap_or(0) } else { 0 }
    }

    /// The connection.
    pub(super) fn conn(&self) -> &Connection {
        &self.conn
    }

    /// The files below.
    pub(super) fn files(&self) -> &Arc<MetaFiles> {
        &self.files
    }

    fn path(&self) -> String {
        self.files.database_path().display().to_string()
    }

    /// Counts rows that were looked at or written.
    pub(super) fn count_rows(&self, count: u64) {
        self.rows.set(self.rows.get() + count);
    }

    /// Rows that were looked at or written so far, as far as their number depends on what there is: a measure for how long the
    /// metadata are held.
    pub(super) fn rows_touched(&self) -> u64 {
        self.rows.get()
    }

    /// The time, as the files' directory has it.
    pub(super) fn now(&self) -> Instant {
        self.files.dir().now()
    }

    /// Says when whoever holds the metadata should let go of them; `None`: nobody else wants them.
    pub(super) fn end_by(&self, until: Option<Instant>) {
        self.until.set(until);
    }

    /// Whether what can be done later is to be left for later, because the metadata have been held for long. How many rows were looked at
    /// does not say that: each may have had to be read from a busy disk.
    pub(super) fn is_late(&self) -> bool {
        self.until.get().is_some_and(|until| self.now() >= until)
    }

    /// Writes a cached row to its table; an error is remembered, whoever it is told.
    pub(super) fn keep_row<T>(&self, written: Result<T>) -> Result<T> {
        if written.is_err() {
            self.lost_rows.set(true);
        }
        written
    }

    /// Whether a cached row that had changed could not be written.
    pub(super) fn has_lost_rows(&self) -> bool {
        self.lost_rows.get()
    }

    /// The open transaction was given up, and nothing is cached any more.
    pub(super) fn forget_lost_rows(&self) {
        self.lost_rows.set(false);
    }

    /// Counts a row added to `shadow`.
    pub(super) fn count_note(&self) {
        self.notes.set(self.notes.get() + 1);
    }

    /// Rows added to `shadow` so far.
    pub(super) fn notes_written(&self) -> u64 {
        self.notes.get()
    }

    /// A statement, prepared once.
    pub(super) fn prepare(&self, sql: &str) -> Result<CachedStatement<'_>> {
        self.conn.prepare_cached(sql).map_err(|e| self.explain(e))
    }

    /// Runs statements that give no rows.
    pub(super) fn run(&self, sql: &str) -> Result<()> {
        self.conn.execute_batch(sql).map_err(|e| self.explain(e))
    }

    /// Runs a prepared statement that gives no rows.
    pub(super) fn execute(&self, sql: &str, params: impl rusqlite::Params) -> Result<usize> {
        let changed = self.prepare(sql)?.execute(params).map_err(|e| self.explain(e))?;
        self.count_rows(changed.max(1) as u64);
        Ok(changed)
    }

    /// The one value of a query without parameters.
    pub(super) fn value<T: rusqlite::types::FromSql>(&self, sql: &str) -> Result<T> {
        self.conn.query_row(sql, [], |row| row.get(0)).map_err(|e| self.explain(e))
    }

    /// Adds what the backing file said to SQLite's error.
    pub(super) fn explain(&self, source: rusqlite::Error) -> MetaError {
        explain(source, &self.files)
    }

    /// Copies the released WAL back into the database as far as readers allow; true if all of it was copied.
    /// Everything in the WAL must be durable.
    pub(super) fn checkpoint(&self) -> Result<bool> {
        let (busy, in_wal, copied): (i64, i64, i64) = self
            .conn
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .map_err(|e| self.explain(e))?;
        Ok(busy == 0 && in_wal == copied)
    }
}

impl Db {
    /// Copies the released WAL back into the database and cuts it to nothing; false if a reader is in the way. No transaction
    /// may be open.
    pub(super) fn cut_wal(&self) -> Result<bool> {
        // Whoever waits here makes everybody wait.
        let patience = |limit| self.conn.busy_timeout(limit).map_err(|e| self.explain(e));
        patience(Duration::ZERO)?;
        let busy: Result<i64> = self.value("PRAGMA wal_checkpoint(TRUNCATE)");
        patience(BUSY_PATIENCE)?;
        Ok(busy? == 0)
    }
}

/// A connection keeps no memory for small things: 48 KiB, by default, also where nobody uses the store. The allocator of each thread is as
/// quick with them.
fn do_without_lookaside(conn: &Connection) {
    #[expect(unsafe_code, reason = "rusqlite has no wrapper for options with more than a bool")]
    // SAFETY: the connection is open; the option takes a pointer and two ints. Where it is in use already, nothing changes.
    unsafe {
        let none = std::ptr::null_mut::<std::ffi::c_void>();
        ffi::sqlite3_db_config(conn.handle(), ffi::SQLITE_DBCONFIG_LOOKASIDE, none, 0, 0);
    }
}

fn explain(source: rusqlite::Error, files: &MetaFiles) -> MetaError {
    // Only an error of a file has something to add; what is noted then belongs to this one.
    let detail = match source.sqlite_error_code() {
        Some(
            rusqlite::ErrorCode::SystemIoFailure
            | rusqlite::ErrorCode::DiskFull
            | rusqlite::ErrorCode::CannotOpen,
        ) => files.take_error(),
        Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
            Some(files.database_path().display().to_string())
        }
        _ => None,
    };
    MetaError::Database { source, detail }
}
