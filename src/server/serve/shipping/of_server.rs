//! What a server is asked of the remote of its store.

use super::Shipping;
use crate::exit_code::Exit;
use crate::remote::LOCAL_NAME;
use crate::server::Server;
use crate::volume::{Result, VolumeError, is_moment};
use std::time::{Duration, Instant};

impl Server {
    /// Waits until everything that was done before is in the store's remote, also where the kernel still had it, for so long, or until `is_gone`
    /// says that nobody wants to know any more; with `keys`, what the kernel has need not be there. A server that has no mounts does not end meanwhile.
    ///
    /// # Errors
    /// Why it is not.
    pub fn sync_remote(&self, timeout: Duration, keys: bool, is_gone: &dyn Fn() -> bool) -> Result<()> {
        let failed = |what: String| VolumeError::new(Exit::Failure, what);
        let shipping = self.shipping.as_ref().ok_or_else(|| failed("the store has no remote".into()))?;
        let until = Instant::now() + timeout;
        let volumes: Vec<String> = {
            let mut state = self.state.lock();
            state.syncing += 1;
            if keys { Vec::new() } else { state.mounts.keys().cloned().collect() }
        };
        let unwritten = self.write_back_until(&volumes, &|| Instant::now() >= until || is_gone());
        let synced = shipping.sync(until.saturating_duration_since(Instant::now()), is_gone);
        {
            let mut state = self.state.lock();
            state.syncing -= 1;
            // It was started for this.
            state.ending |= !state.served && state.syncing == 0;
        }
        self.notify();
        synced.map_err(failed)?;
        shipping.must_be_whole().map_err(failed)?;
        must_be_written(&shipping.remote, &unwritten).map_err(failed)
    }
}

impl Server {
    /// Refuses to change a volume that is the state of a moment of a remote.
    ///
    /// # Errors
    /// `Usage`, with what to do instead.
    pub(in crate::server) fn may_change(&self, name: &str) -> Result<()> {
        let moment = self.shipping.as_ref().and_then(Shipping::moment);
        moment.map_or(Ok(()), |(at, remote)| Err(is_moment(name, &remote, &at)))
    }

    /// Heeds what is kept of the store's remote now.
    ///
    /// # Errors
    /// The host's.
    pub fn remote_changed(&self) -> Result<()> {
        let reread = self.shipping.as_ref().map_or(Ok(()), Shipping::reread);
        reread.map_err(|e| VolumeError::io(&self.path.join(LOCAL_NAME), &e))
    }
}

/// Fails where the kernel has not given all that programs have written; what went wrong, of which mounts.
fn must_be_written(remote: &str, unwritten: &[String]) -> std::result::Result<(), String> {
    let Some(first) = unwritten.first() else { return Ok(()) };
    let more = match unwritten.len() {
        1 => String::new(),
        n => format!(" (and {} more)", n - 1),
    };
    Err(format!(
        "what was synced and closed is in {remote}, but the kernel may have more that programs have written: {first}{more}; have them sync or \
         close their files, or unmount the volume, and give the command again. (Where /sys/fs/fuse/connections is missing, as in some \
         containers: `mount -t fusectl none /sys/fs/fuse/connections`.)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It said that everything is there.
    #[test]
    fn a_sync_is_not_done_where_the_kernel_kept_something() {
        assert_eq!(must_be_written("s3://b/db", &[]), Ok(()));
        let told =
            must_be_written("s3://b/db", &["/mnt/db: no fusectl".into(), "/mnt/c: EIO".into()]).unwrap_err();
        for what in
            ["/mnt/db: no fusectl (and 1 more)", "s3://b/db", "unmount the volume", "mount -t fusectl"]
        {
            assert!(told.contains(what), "{told}");
        }
    }
}
