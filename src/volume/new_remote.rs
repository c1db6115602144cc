//! What a store's remote is to be, before it has one.

use super::error::{Result, VolumeError};
use super::remote::objects_at;
use super::unfinished;
use crate::exit_code::Exit;
use crate::remote::{Address, LeaseKind, Local, must_be_empty, must_not_overwrite, read_store};
use crate::store::StoreId;

/// A remote that somebody asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewRemote {
    /// A URL, or the name of a remote of `/etc/larder/remotes.toml`, below which a volume has a place under its name.
    pub remote: String,
    /// How far behind it may be, in seconds, as long as it can be reached; `None`: as usual.
    pub ship: Option<u64>,
    /// How many bytes it may lack before writers are slowed; `None` or 0: any number.
    pub max_lag: Option<u64>,
    /// For how long what was needed stays there, in seconds; `None`: as usual.
    pub history: Option<u64>,
    /// How many bytes of the store's contents stay here that are there as well; `None` or 0: all of them.
    pub local_size: Option<u64>,
    /// What keeps two hosts from serving the store at once; `None`: as usual.
    pub lease: Option<LeaseKind>,
    /// How often its owner shows life, in seconds; `None`: as usual.
    pub heartbeat: Option<u64>,
}

impl NewRemote {
    /// Where it is for a volume.
    ///
    /// # Errors
    /// `Usage`: what of it makes no sense.
    pub fn address(&self, volume: &str) -> Result<Address> {
        Address::of(&self.remote, Some(volume)).map_err(|e| VolumeError::new(Exit::Usage, e))
    }

    /// What the store of a volume is to keep of it. Asks the remote whether it can have a store: `id`, if that is there already.
    ///
    /// # Errors
    /// `Usage` for what makes no sense; `Exists` if it has a store; and when it cannot be reached.
    pub(super) fn ask(&self, volume: &str, id: Option<StoreId>) -> Result<Local> {
        unfinished::wants("remotes")?;
        let address = self.address(volume)?;
        let objects = objects_at(&address)?;
        if let Some(found) = read_store(&*objects)? {
            let what = match Some(found.store) == id {
                true => format!(
                    "{} has this store already, as it was shipped from somewhere; choose another URL",
                    objects.place()
                ),
                false => {
                    format!("{} has store {} already; choose another URL", objects.place(), found.store)
                }
            };
            return Err(VolumeError::new(Exit::Exists, what));
        }
        must_be_empty(&*objects)?;
        must_not_overwrite(&*objects)?;
        let random =
            |e| VolumeError::new(Exit::Failure, format!("the new owner of the remote has no id: {e}"));
        let mut local = Local::new(&address.url.to_string()).map_err(random)?;
        local.named = Address::name_in(&self.remote).map(str::to_owned);
        if let Some(seconds) = self.ship {
            local.ship = seconds.max(1);
        }
        local.max_lag = self.max_lag.unwrap_or(0);
        local.history = self.history.unwrap_or(local.history);
        local.local_size = self.local_size.unwrap_or(0);
        local.lease = self.lease.unwrap_or_default().to_string();
        local.heartbeat = self.heartbeat.unwrap_or(local.heartbeat);
        Ok(local)
    }
}
