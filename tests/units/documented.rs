//! docs/units.md names each file of `units/` and `quadlets/`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn names(directory: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => self::names(&path, names),
            false => {
                names.insert(path.file_name().unwrap().to_str().unwrap().to_owned());
            }
        }
    }
}

#[test]
fn every_file_is_described() {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/units.md")).unwrap();
    let mut files = BTreeSet::new();
    for directory in ["units", "quadlets"] {
        names(&Path::new(ROOT).join(directory), &mut files);
    }
    let missing: Vec<&String> = files.iter().filter(|name| !page.contains(*name)).collect();
    assert!(
        missing.is_empty(),
        "docs/units.md says nothing of {missing:?}"
    );
}
