//! What the machines boot from, made once and kept until its recipe changes.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The recipe of the root file system: a program, and the files it puts over what is installed.
pub const IMAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/boot/image");

/// Where all of it is kept.
const KEPT: &str = env!("CARGO_TARGET_TMPDIR");

/// The root file system for today's recipe. It is read-only for those who use it.
pub fn directory() -> PathBuf {
    kept("boot-image-", &[IMAGE], |half_made| {
        Command::new(Path::new(IMAGE).join("make"))
            .arg(half_made)
            .output()
            .expect("the recipe")
    })
}

/// What `make` makes of the recipes, which are directories, under a name of that `kind`. What is under
/// it is whole, and made by today's recipes.
pub fn kept(kind: &str, recipes: &[&str], make: impl FnOnce(&Path) -> Output) -> PathBuf {
    let directory = Path::new(KEPT);
    let name = format!("{kind}{:016x}", hash(recipes));
    // Whoever comes second waits for what the first one makes.
    let lock = fs::File::create(directory.join(format!("{kind}lock"))).expect("the lock's file");
    lock.lock().expect("the lock");
    let path = directory.join(&name);
    if !path.exists() {
        remove_others(directory, kind);
        println!("making {}: a minute or two", path.display());
        let half_made = directory.join(format!("{kind}half-made"));
        let output = make(&half_made);
        assert!(
            output.status.success(),
            "no {name} ({}): {}\nthe tools for it: scripts/install-test-tools",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        fs::rename(&half_made, &path).expect("its name");
    }
    path
}

/// What is of an older recipe, or was left half-made.
fn remove_others(directory: &Path, kind: &str) {
    for entry in fs::read_dir(directory).expect("the directory") {
        let path = entry.expect("its entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(kind) && path.is_dir() {
            fs::remove_dir_all(&path).expect("it can be removed");
        }
    }
}

fn hash(recipes: &[&str]) -> u64 {
    let mut files = BTreeMap::new();
    for recipe in recipes {
        read(Path::new(recipe), &mut files);
    }
    let mut hasher = DefaultHasher::new();
    files.hash(&mut hasher);
    hasher.finish()
}

fn read(directory: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(directory).expect("the recipe's directory") {
        let path = entry.expect("its entry").path();
        if path.is_dir() {
            read(&path, files);
        } else {
            files.insert(path.clone(), fs::read(&path).expect("the recipe's file"));
        }
    }
}
