//! Recovery keys: random, printed once, kept on paper.

use super::cipher::CipherError;
use super::key::random;
use sha2::{Digest, Sha256};
use std::fmt;
use std::io;
use std::str::FromStr;
use zeroize::Zeroizing;

/// Random bytes in a recovery key: far more than anybody can try.
const SECRET: usize = 24;
/// With the byte that tells a mistyped one.
const BYTES: usize = SECRET + 1;
/// Crockford's base 32: no letter looks like a digit.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Digits between two dashes.
const GROUP: usize = 5;

/// A key to be written down, like `0a1b2-...` in eight groups of five.
#[derive(Clone, PartialEq, Eq)]
pub struct RecoveryKey {
    secret: Zeroizing<[u8; SECRET]>,
}

impl fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryKey")
    }
}

fn check_byte(secret: &[u8]) -> u8 {
    Sha256::digest(secret)[0]
}

impl RecoveryKey {
    /// A new one.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn random() -> io::Result<Self> {
        let mut secret = Zeroizing::new([0; SECRET]);
        random(&mut *secret)?;
        Ok(Self { secret })
    }

    pub(super) fn secret(&self) -> &[u8] {
        &*self.secret
    }

    /// What is printed, once.
    pub fn text(&self) -> Zeroizing<String> {
        let mut out = Zeroizing::new(String::with_capacity(64));
        let (mut bits, mut held) = (0u32, 0u32);
        let mut digits = 0;
        for byte in self.secret.iter().copied().chain([check_byte(&*self.secret)]) {
            held = held << 8 | u32::from(byte);
            bits += 8;
            while bits >= 5 {
                bits -= 5;
                if digits > 0 && digits % GROUP == 0 {
                    out.push('-');
                }
                out.push(char::from(DIGITS[(held >> bits) as usize & 31]));
                digits += 1;
            }
        }
        out
    }
}

impl FromStr for RecoveryKey {
    type Err = CipherError;

    fn from_str(text: &str) -> Result<Self, CipherError> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(BYTES));
        let (mut bits, mut held) = (0u32, 0u32);
        for c in text.trim().chars().filter(|c| !matches!(c, '-' | ' ')) {
            // As it is read aloud or written by hand.
            let c = match c.to_ascii_lowercase() {
                'o' => '0',
                'i' | 'l' => '1',
                c => c,
            };
            let digit = DIGITS.iter().position(|d| char::from(*d) == c).ok_or(CipherError)?;
            held = (held << 5 | digit as u32) & 0xfff;
            bits += 5;
            if bits >= 8 {
                bits -= 8;
                bytes.push((held >> bits) as u8);
            }
            if bytes.len() > BYTES {
                return Err(CipherError);
            }
        }
        if bytes.len() != BYTES || bits != 0 || check_byte(&bytes[..SECRET]) != bytes[SECRET] {
            return Err(CipherError);
        }
        let mut secret = Zeroizing::new([0; SECRET]);
        secret.copy_from_slice(&bytes[..SECRET]);
        Ok(Self { secret })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_down_is_read_also_when_written_badly() {
        for _ in 0..200 {
            let key = RecoveryKey::random().unwrap();
            let text = key.text();
            assert_eq!((text.len(), text.split('-').count()), (47, 8), "{}", *text);
            assert_eq!(text.parse(), Ok(key.clone()));
            let shouted = text.to_uppercase().replace('0', "O").replace('1', "I").replace('-', " ");
            assert_eq!(shouted.parse(), Ok(key));
        }
    }

    #[test]
    fn a_mistake_is_noticed() {
        let text = RecoveryKey { secret: Zeroizing::new([5; SECRET]) }.text();
        for bad in ["", "hunter2", &text[1..], &format!("{}0", *text), &text.replacen('5', "u", 1)] {
            assert_eq!(bad.parse::<RecoveryKey>(), Err(CipherError), "{bad}");
        }
    }
}
