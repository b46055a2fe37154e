//! Carries out a plan, or shows it: the one place where psi-install changes anything.

use std::path::{Path, PathBuf};

use crate::cli;
use crate::config::Environment;
use crate::error::Result;
use crate::install::host::{Host, Ran};
use crate::install::manifest::{Manifest, digest};
use crate::install::plan::{self, File, Step};
use crate::install::{Layout, Options, tree};

/// A run of psi-install.
pub struct Work {
    pub layout: Layout,
    pub host: Host,
    pub manifest: Manifest,
    dry_run: bool,
    /// What was written or removed, or would be.
    changed: Vec<PathBuf>,
    has_kept: bool,
    unchanged: usize,
}

impl Work {
    /// Enters the target's root and reads what was installed there before.
    ///
    /// # Errors
    /// What keeps either from being done.
    pub fn begin(options: &Options) -> Result<Self> {
        tree::enter(&options.root)?;
        let layout = Layout::of(&Environment::current());
        Ok(Self {
            host: Host::look(layout.scope, options.root != Path::new(tree::HERE)),
            manifest: tree::read_manifest(&layout.manifest)?,
            layout,
            dry_run: options.dry_run,
            changed: Vec::new(),
            has_kept: false,
            unchanged: 0,
        })
    }

    /// Whether nothing is to be changed.
    pub fn is_dry(&self) -> bool {
        self.dry_run
    }

    /// Whether a file was written or removed, or would be.
    pub fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Whether one of these units was among them, or a drop-in of one.
    pub fn has_changed_unit(&self, units: &[&str]) -> bool {
        let names = |path: &PathBuf| {
            let name = |path: &Path| path.file_name()?.to_str().map(str::to_owned);
            let directory = path.parent().and_then(name).unwrap_or_default();
            let unit = directory.strip_suffix(".d").map(str::to_owned);
            unit.or_else(|| name(path)).unwrap_or_default()
        };
        let mut changed = self.changed.iter().map(names);
        changed.any(|name| units.contains(&name.as_str()))
    }

    /// What has to become of the files, if these are all that is wanted.
    ///
    /// # Errors
    /// What keeps a file from being looked at.
    pub fn plan(&self, wanted: Vec<File>) -> Result<Vec<Step>> {
        let names = wanted.iter().map(|file| &file.path);
        let found = tree::look(names.chain(self.manifest.paths()))?;
        Ok(plan::plan(wanted, &self.manifest, &found))
    }

    /// Writes one file, whatever else there is.
    ///
    /// # Errors
    /// As [`Work::carry_out`].
    pub fn write(&mut self, file: File) -> Result<()> {
        let mut steps = self.plan(vec![file])?;
        steps.truncate(1);
        self.carry_out(steps)
    }

    /// Does the steps, in their order, and says so. What was done is noted even if a later step fails.
    ///
    /// # Errors
    /// The first step that failed.
    pub fn carry_out(&mut self, steps: Vec<Step>) -> Result<()> {
        let outcome = steps.into_iter().try_for_each(|step| self.step(step));
        if !self.dry_run {
            tree::write_manifest(&self.layout.manifest, &self.manifest)?;
        }
        outcome
    }

    fn step(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Write(file) => self.write_file(&file),
            Step::Unchanged(file) => {
                self.manifest.note(&file.path, digest(&file.content));
                self.unchanged += 1;
                Ok(())
            }
            Step::Keep(path, why) => {
                self.has_kept = true;
                self.say("kept", &format!("{}: {}", path.display(), why.why()))
            }
            Step::Remove(path) => self.remove_file(&path),
            Step::Forget(path) => {
                self.manifest.forget(&path);
                Ok(())
            }
        }
    }

    fn write_file(&mut self, file: &File) -> Result<()> {
        self.changed.push(file.path.clone());
        if self.dry_run {
            return cli::print(&shown(file));
        }
        tree::write(file)?;
        self.manifest.note(&file.path, digest(&file.content));
        self.say("wrote", &file.path.display().to_string())
    }

    fn remove_file(&mut self, path: &Path) -> Result<()> {
        self.changed.push(path.to_owned());
        if !self.dry_run {
            tree::remove(path)?;
            self.manifest.forget(path);
        }
        self.say("removed", &path.display().to_string())
    }

    /// Runs a command of the target's, if it has it, and says so.
    ///
    /// # Errors
    /// What the command says.
    pub fn command(&self, command: &[String]) -> Result<()> {
        let shown = command.join(" ");
        if self.dry_run {
            return self.say("ran", &shown);
        }
        match self.host.run(command)? {
            Ran::Done => self.say("ran", &shown),
            Ran::Missing => self.say("not run", &format!("{shown}: there is no such program")),
        }
    }

    /// The same for a command that needs the target's systemd to run.
    ///
    /// # Errors
    /// What the command says.
    pub fn command_if_up(&self, command: &[String]) -> Result<()> {
        if self.host.is_up {
            return self.command(command);
        }
        let shown = command.join(" ");
        self.say("not run", &format!("{shown}: systemd does not run here"))
    }

    /// A line of what was done; in a dry run, of what would be.
    ///
    /// # Errors
    /// [`crate::Kind::Io`] if it can't be written.
    pub fn say(&self, what: &str, about: &str) -> Result<()> {
        if !self.dry_run {
            return cli::print(&format!("{what:<8} {about}\n"));
        }
        let what = match what {
            "removed" => "remove",
            "ran" => "run",
            "kept" => "keep",
            "changed" => "change",
            other => other,
        };
        cli::print(&format!("# {what} {about}\n"))
    }

    /// Says how it ended; 1 if something was left alone.
    ///
    /// # Errors
    /// [`crate::Kind::Io`] if it can't be written.
    pub fn end(&self) -> Result<u8> {
        if self.unchanged > 0 {
            let files = format!("{} files, which are as they should be", self.unchanged);
            self.say("found", &files)?;
        }
        if !self.has_kept {
            return Ok(0);
        }
        self.say(
            "next",
            "compare what was kept with `psi-install units --dry-run`; what you move away is written anew",
        )?;
        Ok(1)
    }
}

/// As `systemctl cat` shows files.
fn shown(file: &File) -> String {
    let (path, permissions) = (file.path.display(), file.permissions);
    let text = match std::str::from_utf8(&file.content) {
        Ok(text) => text.to_owned(),
        Err(_) => {
            let (size, digest) = (file.content.len(), digest(&file.content));
            format!("# a program of {size} bytes, SHA-256 {digest}\n")
        }
    };
    format!("# write {path} ({permissions:04o})\n{text}")
}
