//! AES-256-GCM by three libraries, on what larder seals: `cargo bench --bench crypto`.
//!
//! A block of 4 KiB is what has a nonce and a tag of its own; a run of 1 MiB is 256 of them. The last group is the same
//! MiB as a single message, which the format does not have: the difference is what the small messages cost.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on stops")]

use aes_gcm::aead::{AeadInOut, KeyInit};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use larder::crypto::{Cipher, Key, Nonce};
use std::hint::black_box;

const BLOCK: usize = 4096;
const RUN: usize = 1 << 20;

fn nonce(number: usize) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&(number as u64).to_le_bytes());
    nonce
}

fn seal(c: &mut Criterion) {
    let key = [7u8; 32];
    let chosen = Cipher::new(&Key::from_bytes(&key)).unwrap();
    let ring =
        ring::aead::LessSafeKey::new(ring::aead::UnboundKey::new(&ring::aead::AES_256_GCM, &key).unwrap());
    let pure = aes_gcm::Aes256Gcm::new_from_slice(&key).unwrap();
    for (name, total, message) in
        [("4 KiB", BLOCK, BLOCK), ("1 MiB in blocks", RUN, BLOCK), ("1 MiB at once", RUN, RUN)]
    {
        let mut group = c.benchmark_group(format!("seal {name}"));
        group.throughput(Throughput::Bytes(total as u64));
        let mut buf = vec![7u8; total];
        group.bench_function("aws-lc-rs", |b| {
            b.iter(|| {
                for (i, part) in buf.chunks_exact_mut(message).enumerate() {
                    black_box(chosen.seal(Nonce::once(nonce(i)), &[], part).unwrap());
                }
            });
        });
        group.bench_function("ring", |b| {
            b.iter(|| {
                for (i, part) in buf.chunks_exact_mut(message).enumerate() {
                    let nonce = ring::aead::Nonce::assume_unique_for_key(nonce(i));
                    let aad = ring::aead::Aad::empty();
                    let tag = ring.seal_in_place_separate_tag(nonce, aad, part).unwrap();
                    let _ = black_box(tag);
                }
            });
        });
        group.bench_function("aes-gcm", |b| {
            b.iter(|| {
                for (i, part) in buf.chunks_exact_mut(message).enumerate() {
                    black_box(pure.encrypt_inout_detached(&nonce(i).into(), &[], part.into()).unwrap());
                }
            });
        });
        group.finish();
    }
    let mut group = c.benchmark_group("open 4 KiB");
    group.throughput(Throughput::Bytes(BLOCK as u64));
    let mut sealed = vec![7u8; BLOCK];
    let tag = chosen.seal(Nonce::once(nonce(1)), &[], &mut sealed).unwrap();
    let mut buf = sealed.clone();
    group.bench_function("aws-lc-rs", |b| {
        b.iter(|| {
            buf.copy_from_slice(&sealed);
            assert!(chosen.open(nonce(1), &[], &mut buf, &tag));
        });
    });
    group.finish();
}

criterion_group!(benches, seal);
criterion_main!(benches);
