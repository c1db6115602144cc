//! `header.json`: any bytes, and any fields with a checksum that fits them.

use super::memory::MemoryDir;
use larder::crypto::{Keyring, Secret};
use larder::store::{HEADER_NAME, Header};
use std::collections::BTreeMap;
use xxhash_rust::xxh3::xxh3_128;

const FIELDS: [&str; 5] = ["magic", "version", "features", "store", "created"];
const ENCRYPTION: &str = "encryption";

pub fn run(data: &[u8]) {
    read(data);
    if let Some(fixed) = with_checksum(data) {
        read(&fixed);
    }
}

fn read(bytes: &[u8]) {
    let dir = MemoryDir::with_files(&BTreeMap::from([(HEADER_NAME.to_owned(), bytes.to_vec())]));
    if let Ok(header) = Header::read(&*dir) {
        if let Some(keyring) = &header.keyring {
            // Nobody has the secret of such a header.
            let secret = Secret::KeyFile(vec![7; 32].into());
            assert!(keyring.unlock(&header.store.0.to_be_bytes(), &secret).is_err());
        }
        let copy = MemoryDir::with_files(&BTreeMap::new());
        header.create(&*copy).expect("what was read can be written");
        assert_eq!(Header::read(&*copy).expect("and read again"), header);
    }
}

/// The fields of a JSON object, in the order that the checksum wants, with the checksum.
fn with_checksum(data: &[u8]) -> Option<Vec<u8>> {
    let value: serde_json::Value = serde_json::from_slice(data).ok()?;
    let mut fields: Vec<String> =
        FIELDS.iter().map(|field| Some(format!("{field:?}:{}", value.get(field)?))).collect::<Option<_>>()?;
    if let Some(keyring) = value.get(ENCRYPTION) {
        let keyring: Keyring = serde_json::from_value(keyring.clone()).ok()?;
        fields.push(format!("{ENCRYPTION:?}:{}", serde_json::to_string(&keyring).ok()?));
    }
    let body = fields.join(",");
    let sum = xxh3_128(format!("{{{body}}}").as_bytes());
    Some(format!("{{{body},\"checksum\":\"{sum:032x}\"}}").into_bytes())
}
