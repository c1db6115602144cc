//! The C functions that SQLite calls. Each turns pointers into safe values, calls [`SharedFile`], and turns the
//! result into a SQLite code; nothing is decided here.

use super::shared::{Fault, Kind, SharedFile};
use super::shm::ShmUser;
use super::{DIRECTORIES, MetaFiles, PAGE_BYTES, is_ours, open_shared};
use rusqlite::ffi;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::io;
use std::ptr;
use std::sync::{Arc, Once};

pub(super) const VFS_NAME: &CStr = c"larder";
const MAX_PATH: c_int = 512;

/// SQLite's view of an open file. `base` comes first: SQLite knows no more of it.
#[repr(C)]
struct Handle {
    base: ffi::sqlite3_file,
    /// From `Box::into_raw`; null when the file is not open.
    inner: *mut Inner,
}

struct Inner {
    files: Arc<MetaFiles>,
    shared: Arc<SharedFile>,
    lock: c_int,
    shm: ShmUser,
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

/// Registers the VFS with SQLite, once in a process.
pub(super) fn register() -> io::Result<()> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SQLite's statistics of its memory cost a lock with every allocation, and nobody asks for them. Too late if
        // another part of the process has used SQLite before, which does no harm.
        // SAFETY: the option takes one int.
        unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_MEMSTATUS, 0) };
        // Nor are there pages in advance: each connection would have room for 20, 85 KiB, also where nobody uses the store.
        let (none, zero): (*mut c_void, c_int) = (ptr::null_mut(), 0);
        // SAFETY: the option takes a pointer, which may be null, and two ints.
        unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_PAGECACHE, none, zero, zero) };
        // SAFETY: sqlite3_vfs_find(NULL) gives SQLite's default VFS, which lives as long as the process.
        let default = unsafe { ffi::sqlite3_vfs_find(ptr::null()) };
        if default.is_null() {
            return;
        }
        let vfs = Box::new(ffi::sqlite3_vfs {
            iVersion: 2,
            szOsFile: size_of::<Handle>() as c_int,
            mxPathname: MAX_PATH,
            pNext: ptr::null_mut(),
            zName: VFS_NAME.as_ptr(),
            pAppData: default.cast(),
            xOpen: Some(open),
            xDelete: Some(delete),
            xAccess: Some(access),
            xFullPathname: Some(full_pathname),
            xDlOpen: None,
            xDlError: None,
            xDlSym: None,
            xDlClose: None,
            xRandomness: Some(randomness),
            xSleep: Some(sleep),
            xCurrentTime: None,
            xGetLastError: None,
            xCurrentTimeInt64: Some(current_time),
            xSetSystemCall: None,
            xGetSystemCall: None,
            xNextSystemCall: None,
        });
        // SAFETY: the structure is leaked, so it outlives every connection.
        unsafe { ffi::sqlite3_vfs_register(Box::into_raw(vfs), 0) };
    });
    // SAFETY: the name is a C string.
    if unsafe { ffi::sqlite3_vfs_find(VFS_NAME.as_ptr()) }.is_null() {
        return Err(io::Error::other("SQLite did not take the VFS"));
    }
    Ok(())
}

/// Splits SQLite's path `<number>/<name>` and finds the directory.
fn resolve(path: *const c_char) -> Option<(Arc<MetaFiles>, String)> {
    if path.is_null() {
        return None;
    }
    // SAFETY: SQLite passes a C string that lives during the call.
    let path = unsafe { CStr::from_ptr(path) }.to_str().ok()?;
    let (number, name) = path.split_once('/')?;
    let files = DIRECTORIES.lock().get(&number.parse().ok()?)?.upgrade()?;
    Some((files, name.to_owned()))
}

unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    path: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    let handle = file.cast::<Handle>();
    // SAFETY: SQLite gives szOsFile bytes for the handle. Without methods, it will not call close.
    unsafe { (*handle).base.pMethods = ptr::null() };
    let Some((files, name)) = resolve(path) else {
        return ffi::SQLITE_CANTOPEN;
    };
    match open_shared(&files, &name, flags) {
        Ok((shared, read_only)) => {
            let inner = Inner { files, shared, lock: ffi::SQLITE_LOCK_NONE, shm: ShmUser::default() };
            // SAFETY: as above; out_flags is null or valid.
            unsafe {
                (*handle).inner = Box::into_raw(Box::new(inner));
                (*handle).base.pMethods = &raw const METHODS;
                if let Some(out) = out_flags.as_mut() {
                    *out = if read_only { ffi::SQLITE_OPEN_READONLY } else { flags };
                }
            }
            ffi::SQLITE_OK
        }
        Err(e) => {
            if e.kind() != io::ErrorKind::NotFound {
                files.note_error(&name, &e.to_string());
            }
            ffi::SQLITE_CANTOPEN
        }
    }
}

unsafe extern "C" fn delete(_: *mut ffi::sqlite3_vfs, path: *const c_char, sync_dir: c_int) -> c_int {
    let Some((files, name)) = resolve(path) else {
        return ffi::SQLITE_IOERR_DELETE;
    };
    if !is_ours(&name) {
        return ffi::SQLITE_IOERR_DELETE_NOENT;
    }
    if files.read_only {
        return ffi::SQLITE_IOERR_DELETE;
    }
    files.files.lock().remove(&name);
    let removed = match files.dir.remove(&name) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return ffi::SQLITE_IOERR_DELETE_NOENT,
        other => other,
    };
    let synced = if sync_dir != 0 { removed.and_then(|()| files.dir.sync("")) } else { removed };
    match synced {
        Ok(()) => ffi::SQLITE_OK,
        Err(e) => {
            files.note_error(&name, &e.to_string());
            ffi::SQLITE_IOERR_DELETE
        }
    }
}

unsafe extern "C" fn access(
    _: *mut ffi::sqlite3_vfs,
    path: *const c_char,
    _: c_int,
    out: *mut c_int,
) -> c_int {
    let found = match resolve(path) {
        Some((files, name)) if is_ours(&name) => files.dir.exists(&name),
        _ => Ok(false),
    };
    match found {
        Ok(found) => {
            // SAFETY: SQLite passes a valid place for the answer.
            unsafe { *out = c_int::from(found) };
            ffi::SQLITE_OK
        }
        Err(_) => ffi::SQLITE_IOERR_ACCESS,
    }
}

unsafe extern "C" fn full_pathname(
    _: *mut ffi::sqlite3_vfs,
    path: *const c_char,
    len: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: a C string in, `len` bytes of room out.
    unsafe {
        let bytes = CStr::from_ptr(path).to_bytes_with_nul();
        if bytes.len() > usize::try_from(len).unwrap_or(0) {
            return ffi::SQLITE_CANTOPEN;
        }
        ptr::copy_nonoverlapping(bytes.as_ptr().cast(), out, bytes.len());
    }
    ffi::SQLITE_OK
}

/// SQLite's default VFS, which serves what has nothing to do with files.
/// A pointer, because all threads use it at once.
unsafe fn default_vfs(vfs: *mut ffi::sqlite3_vfs) -> *mut ffi::sqlite3_vfs {
    // SAFETY: `register` put it there.
    unsafe { (*vfs).pAppData.cast() }
}

unsafe extern "C" fn randomness(vfs: *mut ffi::sqlite3_vfs, len: c_int, out: *mut c_char) -> c_int {
    // SAFETY: arguments are passed on as they came; SQLite's own VFS lives as long as the process and is only read.
    unsafe {
        let default = default_vfs(vfs);
        (*default).xRandomness.map_or(0, |f| f(default, len, out))
    }
}

unsafe extern "C" fn sleep(vfs: *mut ffi::sqlite3_vfs, micros: c_int) -> c_int {
    // SAFETY: as above.
    unsafe {
        let default = default_vfs(vfs);
        (*default).xSleep.map_or(0, |f| f(default, micros))
    }
}

unsafe extern "C" fn current_time(vfs: *mut ffi::sqlite3_vfs, out: *mut ffi::sqlite3_int64) -> c_int {
    // SAFETY: as above.
    unsafe {
        let default = default_vfs(vfs);
        (*default).xCurrentTimeInt64.map_or(ffi::SQLITE_ERROR, |f| f(default, out))
    }
}

/// The open file behind SQLite's handle. SQLite uses a handle from one thread at a time.
unsafe fn inner<'a>(file: *mut ffi::sqlite3_file) -> &'a mut Inner {
    // SAFETY: only called by methods, which SQLite calls only between a successful `open` and `close`.
    unsafe { &mut *(*file.cast::<Handle>()).inner }
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    let handle = file.cast::<Handle>();
    // SAFETY: `open` made the box; it is taken once, because SQLite closes once.
    let mut inner = unsafe { Box::from_raw(std::mem::replace(&mut (*handle).inner, ptr::null_mut())) };
    // SAFETY: the handle is still ours.
    unsafe { (*handle).base.pMethods = ptr::null() };
    inner.shared.locks.lock().lower(inner.lock, ffi::SQLITE_LOCK_NONE);
    inner.shared.shm.lock().detach(&mut inner.shm);
    ffi::SQLITE_OK
}

fn offset_of(offset: ffi::sqlite3_int64) -> u64 {
    u64::try_from(offset).unwrap_or(u64::MAX)
}

unsafe extern "C" fn read(
    file: *mut ffi::sqlite3_file,
    buf: *mut c_void,
    len: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite gives `len` bytes of room.
    let (inner, buf) = unsafe {
        let len = usize::try_from(len).unwrap_or(0);
        (inner(file), std::slice::from_raw_parts_mut(buf.cast::<u8>(), len))
    };
    let at = offset_of(offset);
    if inner.files.can_heal() && inner.shared.kind == Kind::Database && at == 0 && buf.len() < PAGE_BYTES {
        // What SQLite looks at before it knows what a page is, it does not look at again.
        let mut first = [0; PAGE_BYTES];
        if let Err(fault) = inner.shared.read(&mut first, 0)
            && let Err(Some(why)) = inner.files.heal(&inner.shared, &mut first, 0, &fault)
        {
            log::debug!("page 1 is damaged, unless it is in the WAL: {why}");
        }
    }
    let fault = match inner.shared.read(buf, at) {
        Ok(got) if got == buf.len() => return ffi::SQLITE_OK,
        Ok(_) => return ffi::SQLITE_IOERR_SHORT_READ,
        Err(fault) => fault,
    };
    let why = match inner.files.heal(&inner.shared, buf, at, &fault) {
        Ok(()) => return ffi::SQLITE_OK,
        Err(why) => why.map(|why| format!("; {why}")).unwrap_or_default(),
    };
    match fault {
        Fault::Unsealed(page) => {
            let what = format!("{page} at offset {offset} is damaged: its seal does not open{why}");
            inner.files.note_error(&inner.shared.name, &what);
            ffi::SQLITE_IOERR_DATA
        }
        Fault::Io(e) => {
            inner.files.note_error(&inner.shared.name, &format!("{e}{why}"));
            ffi::SQLITE_IOERR_READ
        }
    }
}

/// Maps a backing error to SQLite's "full" or to `code`, and keeps its text.
fn failed(inner: &Inner, e: &io::Error, code: c_int) -> c_int {
    inner.files.note_error(&inner.shared.name, &e.to_string());
    if matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        ffi::SQLITE_FULL
    } else {
        code
    }
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    data: *const c_void,
    len: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite gives `len` bytes to write.
    let (inner, data) = unsafe {
        let len = usize::try_from(len).unwrap_or(0);
        (inner(file), std::slice::from_raw_parts(data.cast::<u8>(), len))
    };
    match inner.shared.write(data, offset_of(offset)) {
        Ok(()) => ffi::SQLITE_OK,
        Err(e) => failed(inner, &e, ffi::SQLITE_IOERR_WRITE),
    }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, len: ffi::sqlite3_int64) -> c_int {
    // SAFETY: see `inner`.
    let inner = unsafe { inner(file) };
    match inner.shared.truncate(offset_of(len)) {
        Ok(()) => ffi::SQLITE_OK,
        Err(e) => failed(inner, &e, ffi::SQLITE_IOERR_TRUNCATE),
    }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    // SAFETY: see `inner`.
    let inner = unsafe { inner(file) };
    match inner.shared.sync() {
        Ok(()) => ffi::SQLITE_OK,
        Err(e) => failed(inner, &e, ffi::SQLITE_IOERR_FSYNC),
    }
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, out: *mut ffi::sqlite3_int64) -> c_int {
    // SAFETY: see `inner`.
    let inner = unsafe { inner(file) };
    match inner.shared.len() {
        Ok(len) => {
            // SAFETY: SQLite passes a valid place for the answer.
            unsafe { *out = ffi::sqlite3_int64::try_from(len).unwrap_or(ffi::sqlite3_int64::MAX) };
            ffi::SQLITE_OK
        }
        Err(e) => failed(inner, &e, ffi::SQLITE_IOERR_FSTAT),
    }
}

unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, wanted: c_int) -> c_int {
    // SAFETY: see `inner`.
    let inner = unsafe { inner(file) };
    if wanted <= inner.lock {
        return ffi::SQLITE_OK;
    }
    inner.lock = inner.shared.locks.lock().raise(inner.lock, wanted);
    if inner.lock == wanted { ffi::SQLITE_OK } else { ffi::SQLITE_BUSY }
}

unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, wanted: c_int) -> c_int {
    // SAFETY: see `inner`.
    let inner = unsafe { inner(file) };
    if wanted < inner.lock {
        inner.shared.locks.lock().lower(inner.lock, wanted);
        inner.lock = wanted;
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn check_reserved_lock(file: *mut ffi::sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: see `inner`; SQLite passes a valid place for the answer.
    unsafe { *out = c_int::from(inner(file).shared.locks.lock().is_reserved()) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_control(_: *mut ffi::sqlite3_file, _: c_int, _: *mut c_void) -> c_int {
    ffi::SQLITE_NOTFOUND
}

unsafe extern "C" fn sector_size(_: *mut ffi::sqlite3_file) -> c_int {
    super::page::PAGE_BYTES as c_int
}

/// A write that loses power does not damage bytes outside of its range. Nothing more is promised.
unsafe extern "C" fn device_characteristics(_: *mut ffi::sqlite3_file) -> c_int {
    ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    index: c_int,
    bytes: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    // SAFETY: see `inner`.
    let inner = unsafe { inner(file) };
    debug_assert_eq!(inner.shared.kind, Kind::Database);
    let (Ok(index), Ok(bytes)) = (usize::try_from(index), usize::try_from(bytes)) else {
        return ffi::SQLITE_MISUSE;
    };
    let region = inner.shared.shm.lock().map(&mut inner.shm, index, bytes, extend != 0);
    // SAFETY: SQLite passes a valid place for the answer.
    unsafe { *out = region.cast() };
    ffi::SQLITE_OK
}

unsafe extern "C" fn shm_lock(file: *mut ffi::sqlite3_file, at: c_int, count: c_int, flags: c_int) -> c_int {
    // SAFETY: see `inner`.
    let inner = unsafe { inner(file) };
    let (Ok(at), Ok(count)) = (usize::try_from(at), usize::try_from(count)) else {
        return ffi::SQLITE_MISUSE;
    };
    inner.shared.shm.lock().lock(&mut inner.shm, at, count, flags)
}

unsafe extern "C" fn shm_barrier(file: *mut ffi::sqlite3_file) {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    // SAFETY: see `inner`. Taking the lock orders this thread after the last one that held it.
    drop(unsafe { inner(file) }.shared.shm.lock());
}

unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, _delete: c_int) -> c_int {
    // SAFETY: see `inner`.
    let inner = unsafe { inner(file) };
    inner.shared.shm.lock().detach(&mut inner.shm);
    ffi::SQLITE_OK
}
