//! Tells the programs of one build from those of another: by what they are made from.

use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// What the programs are made from.
const SOURCES: [&str; 4] = ["build.rs", "Cargo.toml", "Cargo.lock", "src"];

fn files(path: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    if !path.is_dir() {
        found.push(path.to_owned());
        return Ok(());
    }
    for entry in path.read_dir()? {
        let entry = entry?;
        // What editors leave there is of no account.
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            files(&entry.path(), found)?;
        }
    }
    Ok(())
}

fn main() -> io::Result<()> {
    let mut found = Vec::new();
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
        files(Path::new(source), &mut found)?;
    }
    found.sort();
    let mut hasher = DefaultHasher::new();
    for path in found {
        // Lengths as well, so that nothing can be taken for a part of what is beside it.
        for part in [path.as_os_str().as_encoded_bytes(), &fs::read(&path)?] {
            hasher.write_usize(part.len());
            hasher.write(part);
        }
    }
    // One with assertions does more than one without.
    let profile =
        env::var("PROFILE").unwrap_or_default() + &env::var("CARGO_CFG_DEBUG_ASSERTIONS").unwrap_or_default();
    hasher.write(profile.as_bytes());
    println!("cargo::rustc-env=LARDER_BUILD={:016x}", hasher.finish());
    Ok(())
}
