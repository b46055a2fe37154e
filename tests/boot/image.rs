//! The machine's root file system, made once and kept until its recipe changes.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The recipe: a program, and the files it puts over what is installed.
const RECIPE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/boot/image");

/// Where images are kept.
const IMAGES: &str = env!("CARGO_TARGET_TMPDIR");

/// The image for today's recipe. It is read-only for those who use it.
pub fn directory() -> PathBuf {
    let images = Path::new(IMAGES);
    let image = images.join(format!("boot-image-{:016x}", recipe_hash()));
    // Whoever comes second waits for the first one's image.
    let lock = fs::File::create(images.join("boot-image.lock")).expect("the lock's file");
    lock.lock().expect("the lock");
    if !image.exists() {
        remove_others(images);
        make(&image);
    }
    image
}

/// What is under the final name is whole.
fn make(image: &Path) {
    println!("making {}: about a minute", image.display());
    let half_made = Path::new(IMAGES).join("boot-image-half-made");
    let output = Command::new(Path::new(RECIPE).join("make"))
        .arg(&half_made)
        .output()
        .expect("the recipe");
    assert!(
        output.status.success(),
        "no image ({}): {}\nthe tools for it: scripts/install-test-tools",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    fs::rename(&half_made, image).expect("the image's name");
}

/// What is of an older recipe, or was left half-made.
fn remove_others(images: &Path) {
    for entry in fs::read_dir(images).expect("the images' directory") {
        let path = entry.expect("its entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("boot-image-") {
            fs::remove_dir_all(&path).expect("an image can be removed");
        }
    }
}

fn recipe_hash() -> u64 {
    let mut files = BTreeMap::new();
    read(Path::new(RECIPE), &mut files);
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
