//! The kernel's view of FUSE connections: `/sys/fs/fuse/connections`.

use nix::mount::MsFlags;
use std::fs;
use std::io;
use std::path::Path;

const DIR: &str = "/sys/fs/fuse/connections";

/// Lets the kernel answer everything on the mount with connection number `connection` with an error, now and ever after.
///
/// # Errors
/// `NotFound` when it is gone, or as mount(2) where the file system of connections is not mounted.
pub fn abort(connection: u32) -> io::Result<()> {
    let file = Path::new(DIR).join(connection.to_string()).join("abort");
    if !file.exists() {
        let control = Some("fusectl");
        match nix::mount::mount(control, DIR, control, MsFlags::empty(), None::<&str>) {
            // Somebody has mounted it: it is the connection that is not there.
            Ok(()) | Err(nix::errno::Errno::EBUSY) => {}
            Err(e) => return Err(e.into()),
        }
    }
    fs::write(file, "1")
}
