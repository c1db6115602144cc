//! Making a client of an object store: which server, which credentials, which certificates.

use super::super::url::{RemoteUrl, Scheme};
use super::credentials::{self, AwsFile};
use super::instance::Instance;
use super::watched::Watched;
use super::{Cloud, Store, runtime};
use crate::backing::open_linked;
use crate::config::{CredentialSource, RemoteSettings};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};
use object_store::list::PaginatedListStore;
use object_store::{
    Certificate, ClientOptions, HeaderValue, ObjectStore, RetryConfig, StaticCredentialProvider,
};
use std::env;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long to wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// The most bytes of certificates.
const CA_BYTES_MAX: u64 = 4 << 20;

/// Retries are ours: they are counted, limited, and find out about lost answers.
fn no_retries() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

fn read(path: &Path, most: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = open_linked(path).and_then(|file| file.take(most).read_to_end(&mut bytes));
    read.map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(bytes)
}

fn options(settings: &RemoteSettings, endpoint: Option<&str>) -> Result<ClientOptions, String> {
    let mut options = ClientOptions::new()
        .with_user_agent(HeaderValue::from_static(concat!("larder/", env!("CARGO_PKG_VERSION"))))
        .with_allow_http(endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")))
        .with_connect_timeout(CONNECT)
        .with_timeout_disabled();
    if let Some(path) = &settings.ca_file {
        let bad = |e: String| format!("{}: {e}", path.display());
        let pem = read(path, CA_BYTES_MAX)?;
        let all = Certificate::from_pem_bundle(&pem)
            .map_err(|_| bad("there are no certificates (PEM) in it".into()))?;
        if all.is_empty() {
            return Err(bad("there are no certificates (PEM) in it".into()));
        }
        options = all
            .into_iter()
            .fold(options.with_no_system_certificates(true), ClientOptions::with_root_certificate);
    }
    Ok(options)
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Whether the environment may say where credentials are.
fn takes_environment(settings: &RemoteSettings) -> bool {
    matches!(settings.credentials, CredentialSource::Any | CredentialSource::Environment)
}

/// Whether the machine is one of a provider, as it calls itself: elsewhere, its metadata service would only be waited for.
fn is_machine_of(provider: &str) -> bool {
    ["sys_vendor", "bios_vendor", "product_name", "chassis_vendor"].iter().any(|name| {
        std::fs::read_to_string(format!("/sys/class/dmi/id/{name}")).is_ok_and(|text| text.contains(provider))
    })
}

/// Whether there may be credentials of the instance.
fn may_ask_instance(settings: &RemoteSettings, provider: &str) -> bool {
    match settings.credentials {
        CredentialSource::Instance => true,
        CredentialSource::Any => settings.endpoint.is_none() && is_machine_of(provider),
        _ => false,
    }
}

const NO_CREDENTIALS: &str = "there are no credentials for it: put them into the environment, the usual files, or \
                              /etc/larder/remotes.toml (docs/remotes.md)";

/// A client of the object store at `url`.
///
/// # Errors
/// What of the settings makes no sense, without secrets.
pub(in super::super) fn cloud(url: &RemoteUrl, settings: &RemoteSettings) -> Result<Cloud, String> {
    let runtime = runtime::handle()?;
    let _inside = runtime.enter();
    let store = match url.scheme() {
        Scheme::S3 => s3(url, settings)?,
        Scheme::Gs => gcs(url, settings)?,
        Scheme::Az => azure(url, settings)?,
        Scheme::File => return Err("it is a directory".into()),
    };
    Ok(Cloud { place: url.to_string(), prefix: url.prefix().into(), store: Arc::new(store) })
}

fn store<T: ObjectStore + PaginatedListStore>(
    built: object_store::Result<T>,
    is_sorted: bool,
) -> Result<Store, String> {
    // What it says of a configuration may have parts of it.
    let built = Arc::new(built.map_err(|e| super::failure::sort(&e, None).1)?);
    Ok(Store { objects: Arc::clone(&built) as Arc<dyn ObjectStore>, lists: built, is_sorted })
}

fn s3(url: &RemoteUrl, settings: &RemoteSettings) -> Result<Store, String> {
    let from_environment = takes_environment(settings);
    let named = || {
        from_environment
            .then(|| variable("AWS_ENDPOINT_URL_S3").or_else(|| variable("AWS_ENDPOINT_URL")))
            .flatten()
    };
    let endpoint = settings
        .endpoint
        .clone()
        .or_else(named)
        .or_else(|| variable("AWS_ENDPOINT").filter(|_| from_environment));
    let mut builder = if from_environment { AmazonS3Builder::from_env() } else { AmazonS3Builder::new() }
        .with_bucket_name(url.bucket())
        .with_retry(no_retries())
        .with_client_options(options(settings, endpoint.as_deref())?)
        .with_http_connector(Watched::default())
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_disable_tagging(true);
    let path_style = settings.path_style.unwrap_or(true);
    builder = builder.with_virtual_hosted_style_request(!path_style);
    if let Some(endpoint) = &endpoint {
        let Some((scheme, host)) =
            endpoint.split_once("://").filter(|(scheme, _)| ["http", "https"].contains(scheme))
        else {
            return Err("the endpoint does not begin with https:// or http://".into());
        };
        let endpoint =
            if path_style { endpoint.clone() } else { format!("{scheme}://{}.{host}", url.bucket()) };
        builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
    }
    if let Some(region) = &settings.region {
        builder = builder.with_region(region);
    }
    let in_environment = || {
        [
            "AWS_ACCESS_KEY_ID",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        ]
        .iter()
        .any(|name| variable(name).is_some())
    };
    let profile =
        || settings.profile.clone().or_else(|| variable("AWS_PROFILE")).unwrap_or_else(|| "default".into());
    if let Some(secret) = &settings.secret_access_key {
        let id = settings
            .access_key_id
            .as_deref()
            .ok_or("there is a secret-access-key without an access-key-id")?;
        // Nothing of the environment belongs to these.
        builder = builder.with_credentials(credentials::fixed(
            id,
            secret.reveal(),
            settings.session_token.as_ref().map(|token| token.reveal()),
        ));
    } else if let Some(path) = &settings.credentials_file {
        builder = builder.with_credentials(Arc::new(AwsFile::open(path, &profile())?));
    } else if settings.credentials == CredentialSource::None {
        builder = builder.with_skip_signature(true);
    } else if from_environment && in_environment() {
        // The builder has them.
    } else if let Some(path) = credentials::usual_aws_file().filter(|path| {
        settings.credentials != CredentialSource::Instance
            && settings.credentials != CredentialSource::Environment
            && path.exists()
    }) {
        builder = builder.with_credentials(Arc::new(AwsFile::open(&path, &profile())?));
    } else if !may_ask_instance(settings, "Amazon") {
        return Err(NO_CREDENTIALS.into());
    }
    // The lists of directory buckets are in no order.
    store(builder.build(), !url.bucket().ends_with("--x-s3"))
}

fn gcs(url: &RemoteUrl, settings: &RemoteSettings) -> Result<Store, String> {
    let from_environment = takes_environment(settings);
    let mut builder = if from_environment {
        GoogleCloudStorageBuilder::from_env()
    } else {
        GoogleCloudStorageBuilder::new()
    }
    .with_bucket_name(url.bucket())
    .with_retry(no_retries())
    .with_client_options(options(settings, settings.endpoint.as_deref())?)
    .with_http_connector(Watched::default());
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_base_url(endpoint);
    }
    let in_environment = || {
        [
            "GOOGLE_SERVICE_ACCOUNT",
            "GOOGLE_SERVICE_ACCOUNT_PATH",
            "GOOGLE_SERVICE_ACCOUNT_KEY",
            "GOOGLE_APPLICATION_CREDENTIALS",
            "SERVICE_ACCOUNT",
        ]
        .iter()
        .any(|name| variable(name).is_some())
    };
    if settings.access_key_id.is_some()
        || settings.secret_access_key.is_some()
        || settings.session_token.is_some()
    {
        return Err(
            "access-key-id, secret-access-key and session-token are of S3; for Google Cloud Storage, name the JSON file of a service account as \
             credentials-file"
                .into(),
        );
    }
    let usual =
        || credentials::home().map(|home| home.join(".config/gcloud/application_default_credentials.json"));
    if let Some(path) = &settings.credentials_file {
        credentials::may_be_read(path)?;
        builder = builder.with_service_account_path(path.to_string_lossy());
    } else if settings.credentials == CredentialSource::None {
        // Writes ask for credentials all the same.
        let nobody = GcpCredential { bearer: String::new() };
        builder = builder
            .with_skip_signature(true)
            .with_credentials(Arc::new(StaticCredentialProvider::new(nobody)));
    } else if settings.credentials == CredentialSource::Instance {
        let instance = Instance::new().map_err(|e| super::failure::sort(&e, None).1)?;
        builder = builder.with_credentials(Arc::new(instance));
    } else {
        let takes_files = matches!(settings.credentials, CredentialSource::Any | CredentialSource::Files);
        let in_files = takes_files && usual().is_some_and(|path| path.exists());
        if !(in_files || from_environment && in_environment() || may_ask_instance(settings, "Google")) {
            return Err(NO_CREDENTIALS.into());
        }
    }
    store(builder.build(), true)
}

fn azure(url: &RemoteUrl, settings: &RemoteSettings) -> Result<Store, String> {
    let from_environment = takes_environment(settings);
    let mut builder =
        if from_environment { MicrosoftAzureBuilder::from_env() } else { MicrosoftAzureBuilder::new() }
            .with_container_name(url.bucket())
            .with_retry(no_retries())
            .with_client_options(options(settings, settings.endpoint.as_deref())?)
            .with_http_connector(Watched::default())
            .with_disable_tagging(true);
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    if let Some(account) = settings.account.as_ref().or(settings.access_key_id.as_ref()) {
        builder = builder.with_account(account);
    }
    let in_environment = || {
        env::vars_os().any(|(name, _)| {
            name.to_str().is_some_and(|name| name.starts_with("AZURE_") && !name.ends_with("_NAME"))
        })
    };
    if let Some(secret) = &settings.secret_access_key {
        builder = builder.with_access_key(secret.reveal());
    } else if let Some(path) = &settings.credentials_file {
        builder = builder.with_access_key(credentials::read_secret(path)?.trim());
    } else if settings.credentials == CredentialSource::None {
        builder = builder.with_skip_signature(true);
    } else if !(from_environment && in_environment() || may_ask_instance(settings, "Microsoft")) {
        return Err(NO_CREDENTIALS.into());
    }
    store(builder.build(), true)
}
