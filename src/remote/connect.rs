//! From what somebody calls a remote to its objects.

use super::clock::Clock;
use super::cloud::cloud;
use super::counted::{Counted, Counts};
use super::deadline::Deadlines;
use super::directory::Directory;
use super::error::{RemoteError, Result};
use super::limited::{Limited, Limits, shared};
use super::objects::Objects;
use super::patient::{Patience, Patient};
use super::url::{RemoteUrl, Scheme};
use crate::config::{RemoteSettings, Remotes};
use crate::nearest::nearest;
use std::sync::{Arc, OnceLock};

/// Gets ready to speak to an object store.
type ToCloud = fn(&RemoteUrl, &RemoteSettings) -> std::result::Result<Arc<dyn Objects>, String>;

/// Nothing else leads to what speaks to object stores, which is more than all the rest of a server: who never calls [`with_clouds`] is
/// linked without.
static TO_CLOUD: OnceLock<ToCloud> = OnceLock::new();

/// This process may have to do with remotes in object stores. To be called before [`connect`].
pub fn with_clouds() {
    TO_CLOUD.get_or_init(|| |url, settings| Ok(Arc::new(cloud(url, settings)?)));
}

/// Whether this process can have to do with such a remote: any in a directory, and those in object stores after [`with_clouds`].
pub fn can_reach(scheme: Scheme) -> bool {
    scheme == Scheme::File || TO_CLOUD.get().is_some()
}

/// Where a remote is, and how to speak to it.
#[derive(Clone, Debug)]
pub struct Address {
    /// Its URL.
    pub url: RemoteUrl,
    /// What is to be known beside that; nothing, if it has no name.
    pub settings: RemoteSettings,
}

impl Address {
    /// What `--remote` means: a URL; the name of a remote of `/etc/larder/remotes.toml`, below which volume `volume` has its place; or
    /// NAME/VOLUME, for a place below it.
    ///
    /// # Errors
    /// What is wrong with it, without secrets.
    pub fn of(text: &str, volume: Option<&str>) -> std::result::Result<Self, String> {
        match split(text) {
            None => Ok(Self { url: text.parse()?, settings: RemoteSettings::default() }),
            Some((name, below)) => Self::named(name, below.or(volume), &Remotes::load()?),
        }
    }

    /// Whether such a text can be one, whatever `remotes.toml` says.
    ///
    /// # Errors
    /// What is wrong with it, without secrets.
    pub fn check(text: &str) -> std::result::Result<(), String> {
        match split(text) {
            None => text.parse::<RemoteUrl>().map(drop),
            Some(_) => Ok(()),
        }
    }

    /// The name of a remote in such a text, if it is no URL.
    pub fn name_in(text: &str) -> Option<&str> {
        split(text).map(|(name, _)| name)
    }

    /// How a place of the remote of this name is written, NAME/VOLUME, where `url` is below it as `remotes.toml` is now.
    pub fn called(name: &str, url: &str) -> Option<String> {
        let top = Self::of(name, None).ok()?.url.to_string();
        let below = url.strip_prefix(top.trim_end_matches('/'))?;
        (below.is_empty() || below.starts_with('/')).then(|| format!("{name}{below}"))
    }

    /// As [`Address::of`], for a name in these remotes.
    ///
    /// # Errors
    /// As [`Address::of`].
    pub fn named(name: &str, volume: Option<&str>, remotes: &Remotes) -> std::result::Result<Self, String> {
        let Some(settings) = remotes.get(name) else {
            let path = Remotes::path().0;
            let hint = match nearest(name, remotes.names()) {
                Some(meant) => format!("; did you mean {meant:?}?"),
                None => "; write a URL, such as s3://bucket/prefix, or a name from there".into(),
            };
            return Err(format!("{} has no remote {name:?}{hint}", path.display()));
        };
        let url: RemoteUrl = settings.url.as_deref().unwrap_or_default().parse()?;
        let url = match volume {
            // Names of volumes may have upper-case letters and all else that a URL has room for.
            Some(volume) => url.join(volume)?,
            None => url,
        };
        Ok(Self { url, settings: settings.clone() })
    }
}

/// The name of a remote, and what is meant below it; `None` for a URL.
fn split(text: &str) -> Option<(&str, Option<&str>)> {
    if RemoteUrl::is_meant(text) {
        return None;
    }
    Some(text.split_once('/').map_or((text, None), |(name, below)| (name, Some(below))))
}

/// The objects of a remote.
#[derive(Clone, Debug)]
pub struct Connection {
    /// With retries and limits: for everything but signs of life.
    pub objects: Arc<dyn Objects>,
    /// Without: each request is made once ([`Beat`](super::Beat)).
    pub once: Arc<dyn Objects>,
}

/// Gets ready to speak to a remote. Nothing is sent yet.
///
/// # Errors
/// What of the address makes no sense, or that there are no credentials.
pub fn connect(address: &Address, clock: &Arc<dyn Clock>) -> Result<Connection> {
    connect_until(address, clock, Patience::default(), &Deadlines::default(), &Arc::default())
}

/// The same with another patience, and until a deadline. What is asked for is counted.
///
/// # Errors
/// As [`connect`].
pub fn connect_until(
    address: &Address,
    clock: &Arc<dyn Clock>,
    patience: Patience,
    deadlines: &Deadlines,
    counts: &Arc<Counts>,
) -> Result<Connection> {
    let RemoteSettings { upload, download, requests, .. } = address.settings;
    let once: Arc<dyn Objects> = match address.url.scheme() {
        Scheme::File => Arc::new(Directory::new(&address.url.directory())),
        _ => {
            let cannot =
                |why| RemoteError::Host { what: format!("cannot use the remote {}", address.url), why };
            let to_cloud = TO_CLOUD.get().ok_or_else(|| {
                let what = "this process was started when the volume had none; unmount it and mount it again";
                cannot(what.to_owned())
            })?;
            to_cloud(&address.url, &address.settings).map_err(cannot)?
        }
    };
    let once: Arc<dyn Objects> = Arc::new(Counted::new(once, Arc::clone(counts)));
    let limits = Limits { upload, download, requests };
    let limited: Arc<dyn Objects> = if limits == Limits::default() {
        Arc::clone(&once)
    } else {
        // Those of a name, whatever lies below it.
        let of = address.settings.url.clone().unwrap_or_else(|| address.url.to_string());
        let buckets = shared(&of, limits);
        Arc::new(Limited::until(Arc::clone(&once), Arc::clone(clock), buckets, deadlines.clone()))
    };
    let objects = Patient::until(limited, Arc::clone(clock), patience, deadlines.clone());
    Ok(Connection { objects: Arc::new(objects), once })
}
