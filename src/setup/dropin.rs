//! Quadlet drop-ins: `<unit>.d/50-secrets.conf`, the `Secret=` lines of one workload.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;

use crate::config::Workload;
use crate::directory::{Directory, Owner};
use crate::error::{Error, Kind, Result};
use crate::setup::plan::Registration;
use crate::setup::retire::unix_time;

/// The file's name; one that sorts later may add to it or reset it.
pub const FILE: &str = "50-secrets.conf";

/// How each of them starts.
pub const FIRST_WORDS: &str = "# Written by psi-setup ";

/// Largest drop-in that is read, in bytes.
const MAX_FILE: u64 = 16 << 20;

/// Where the drop-in of `unit` lies.
pub fn path(systemd_dir: &Path, unit: &str) -> PathBuf {
    systemd_dir.join(format!("{unit}.d")).join(FILE)
}

/// The text for a workload that is to have the secrets of these lines.
pub fn render(workload: &Workload, name: &str, secrets: &[String]) -> String {
    let mut text = format!("{FIRST_WORDS}for workload {name}; changes are overwritten.\n");
    if !workload.depends_on.is_empty() {
        let units = workload.depends_on.join(" ");
        // Wants=, not Requires=: a failed setup must not keep the workload down.
        text.push_str(&format!("\n[Unit]\nWants={units}\nAfter={units}\n"));
    }
    if !secrets.is_empty() {
        text.push_str("\n[Container]\n");
    }
    for line in secrets {
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// The line for a secret.
///
/// Names are plain words, [`crate::setup::plan`] sees to that, and need no quotes.
pub fn secret_line(secret: &Registration) -> String {
    let (name, target) = (&secret.name, &secret.target);
    format!("Secret={name},type=env,target={target}")
}

/// The lines for secrets in a drop-in, as they are.
pub fn secret_lines(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| secret_name(line).is_some());
    lines.map(str::to_owned).collect()
}

/// The names of the secrets in a drop-in that [`render`] made.
pub fn secret_names(text: &str) -> Vec<&str> {
    text.lines().filter_map(secret_name).collect()
}

fn secret_name(line: &str) -> Option<&str> {
    line.strip_prefix("Secret=")?.split(',').next()
}

/// The drop-in that is there; nothing if there is none.
///
/// # Errors
/// [`Kind::Io`] naming the file.
pub fn read(path: &Path) -> Result<Option<String>> {
    const NEXT: &str = "move it away, then `systemctl restart 'psi-*-setup.service'`";
    let failed = |e| Error::io(format!("cannot read {}", path.display()), e).hint(NEXT);
    match fs::metadata(path) {
        Ok(meta) if meta.len() > MAX_FILE => {
            let what = format!("{} is no drop-in of PSI's", path.display());
            return Err(Error::new(Kind::Io, what).hint(NEXT));
        }
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    }
    fs::read(path)
        .map(|bytes| Some(String::from_utf8_lossy(&bytes).into_owned()))
        .map_err(failed)
}

/// When the drop-in was changed last, in seconds since 1970; nothing if there is none.
pub fn changed(path: &Path) -> Option<u64> {
    let changed = fs::metadata(path).and_then(|meta| meta.modified());
    Some(unix_time(changed.ok()?))
}

/// Puts `text` in the place of the drop-in, whole or not at all; its folder is made if missing.
///
/// # Errors
/// [`Kind::Io`] naming the file; what was there before is then still there, unless the disk
/// failed in the very last step.
pub fn write(path: &Path, text: &str) -> Result<()> {
    let failed = |e: io::Error| {
        let hint = match e.kind() {
            io::ErrorKind::ReadOnlyFilesystem => {
                "see `mount`; if it can be written by hand, it is the unit's sandbox: a `systemd_dir` other than /etc/containers/systemd needs `ReadWritePaths=` in a drop-in of psi-infisical-setup.service"
            }
            _ => "`systemd_dir` in config.yaml must be a directory that psi-setup may write",
        };
        Error::io(format!("cannot write {}", path.display()), e).hint(hint)
    };
    let folder = path.parent().unwrap_or(path);
    match fs::create_dir(folder) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed(e)),
        _ => {}
    }
    let mode = Mode::from_raw_mode(0o644);
    Directory::open(folder)
        .and_then(|d| {
            d.replace(FILE.as_ref(), &[text.as_bytes()], mode, Owner::Maker)?;
            d.sync()
        })
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use crate::config::{Config, Environment, WorkloadSecrets};
    use crate::mapping::ProviderName;
    use crate::setup::plan::Action;
    use std::collections::BTreeMap;

    fn workload(depends_on: &[&str]) -> Workload {
        Workload {
            provider: ProviderName::Infisical,
            unit: "myapp.container".to_owned(),
            depends_on: depends_on.iter().map(|&unit| unit.to_owned()).collect(),
            secrets: WorkloadSecrets::Keys(Vec::new()),
            cache: false,
        }
    }

    fn registration(target: &str) -> Registration {
        Registration {
            name: format!("myapp--{target}"),
            target: target.to_owned(),
            action: Action::Keep,
            labels: BTreeMap::new(),
        }
    }

    #[test]
    fn a_drop_in_orders_the_unit_and_names_each_secret_once() {
        let units = workload(&["a.service", "b.service"]);
        let secrets = ["A", "B.c-D"].map(|target| secret_line(&registration(target)));
        let text = render(&units, "myapp", &secrets);
        assert_eq!(
            text,
            "# Written by psi-setup for workload myapp; changes are overwritten.\n\
             \n[Unit]\nWants=a.service b.service\nAfter=a.service b.service\n\
             \n[Container]\n\
             Secret=myapp--A,type=env,target=A\n\
             Secret=myapp--B.c-D,type=env,target=B.c-D\n"
        );
        assert_eq!(secret_names(&text), ["myapp--A", "myapp--B.c-D"]);
        assert_eq!(secret_lines(&text), secrets);
    }

    #[test]
    fn a_workload_without_secrets_still_orders_its_unit() {
        let text = render(&workload(&["a.service"]), "myapp", &[]);
        assert!(text.contains("After=a.service"), "{text}");
        assert!(!text.contains("[Container]"), "{text}");
    }

    #[test]
    fn a_drop_in_is_written_whole_and_readable_by_all() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path(), "myapp@.container");
        assert!(read(&path).unwrap().is_none());
        write(&path, "one").unwrap();
        write(&path, "two").unwrap();
        assert_eq!(read(&path).unwrap().as_deref(), Some("two"));
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o644);
        let files = fs::read_dir(path.parent().unwrap()).unwrap();
        assert_eq!(files.count(), 1);
    }

    #[test]
    fn a_systemd_directory_that_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(&dir.path().join("missing"), "myapp.container");
        let error = write(&path, "x").unwrap_err();
        assert_eq!(error.kind(), Kind::Io);
        assert!(
            error.to_string().contains("missing/myapp.container.d"),
            "{error}"
        );
    }

    /// The settings of a unit file as systemd and quadlet read them, each with its section: a
    /// backslash continues a line, `#` and `;` begin a comment.
    fn settings(text: &str) -> Vec<(String, String, String)> {
        let mut section = String::new();
        let mut settings = Vec::new();
        let text: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with(['#', ';']))
            .collect();
        for line in text.join("\n").replace("\\\n", " ").lines() {
            match line.split_once('=') {
                Some((key, value)) => {
                    settings.push((section.clone(), key.to_owned(), value.to_owned()));
                }
                None if line.starts_with('[') => section = line.to_owned(),
                None => assert_eq!(line, ""),
            }
        }
        settings
    }

    /// The workload `name` of a configuration that depends on `units`, if both are accepted.
    fn configured(name: &str, units: &[String]) -> Option<Workload> {
        let units: Vec<String> = units.iter().map(|unit| format!("'{unit}'")).collect();
        let text = format!(
            "{{providers: {{local: }}, workloads: {{'{name}': {{provider: local, depends_on: [{}]}}}}}}",
            units.join(", ")
        );
        let file = Path::new("/etc/psi/config.yaml");
        let mut config = Config::parse(file, &text, true, &Environment::default()).ok()?;
        config.workloads.remove(name)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn a_drop_in_says_what_was_configured_to_systemd_and_quadlet(
            name in "[a-zA-Z0-9_][a-zA-Z0-9_.@-]{0,10}",
            units in vec("[a-zA-Z0-9_.@:\\\\-]{1,10}\\.[a-z]{1,7}[\\\\]{0,1}", 0..4),
            targets in vec("[a-zA-Z0-9_.-]{1,20}", 0..5),
        ) {
            let Some(workload) = configured(&name, &units) else {
                return Err(TestCaseError::reject("not a valid configuration"));
            };
            let secrets: Vec<String> =
                targets.iter().map(|t| secret_line(&registration(t))).collect();
            let text = render(&workload, &name, &secrets);
            let setting = |section: &str, key: &str, value: &str| {
                (section.to_owned(), key.to_owned(), value.to_owned())
            };
            let mut expected = Vec::new();
            if !units.is_empty() {
                expected.push(setting("[Unit]", "Wants", &units.join(" ")));
                expected.push(setting("[Unit]", "After", &units.join(" ")));
            }
            for target in &targets {
                let value = format!("myapp--{target},type=env,target={target}");
                // Nothing that quadlet splits at, unquotes or expands.
                prop_assert!(!value.contains([' ', '"', '\'', '\\', '%', '$']));
                expected.push(setting("[Container]", "Secret", &value));
            }
            prop_assert_eq!(settings(&text), expected, "{}", text);
            let names: Vec<String> = targets.iter().map(|t| format!("myapp--{t}")).collect();
            prop_assert_eq!(secret_names(&text), names);
        }
    }
}
