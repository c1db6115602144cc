//! The cipher is the standard one: what this program seals, another implementation opens, and the other way round.

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{AeadInOut, KeyInit};
use larder::crypto::{Cipher, Key, Nonce};

#[test]
fn two_implementations_open_what_the_other_sealed() {
    for round in 0..200u32 {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&round.to_le_bytes());
        let nonce = [round as u8; 12];
        let aad = vec![7; round as usize % 40];
        let plain = crate::support::pattern(round as usize * 37, round.into());
        let (ours, other) =
            (Cipher::new(&Key::from_bytes(&key)).unwrap(), Aes256Gcm::new_from_slice(&key).unwrap());

        let mut sealed = plain.clone();
        let tag = ours.seal(Nonce::once(nonce), &aad, &mut sealed).unwrap();
        let mut opened = sealed.clone();
        other.decrypt_inout_detached(&nonce.into(), &aad, opened.as_mut_slice().into(), &tag.into()).unwrap();
        assert!(opened == plain);

        let mut again = plain.clone();
        let tag = other.encrypt_inout_detached(&nonce.into(), &aad, again.as_mut_slice().into()).unwrap();
        assert!(again == sealed && ours.open(nonce, &aad, &mut again, &tag) && again == plain);
    }
}
