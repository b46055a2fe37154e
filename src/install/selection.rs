//! Which of the shipped files a machine gets, and what is filled in: pure.

use std::path::{Path, PathBuf};

use crate::config::{Backend, Config, Scope};
use crate::hsm::pcscd::SHIPPED_VOLUME;
use crate::install::accounts::Ids;
use crate::install::plan::File;
use crate::install::shipped::{FILES, IDS, Mode, Part, Place, SHIPPED_PROGRAMS, Shipped, Variant};

/// All that the choice depends on.
#[derive(Debug)]
pub struct Target<'t> {
    /// The machine's configuration.
    pub config: &'t Config,
    /// What runs the programs.
    pub mode: Mode,
    /// Where systemd looks for the administrator's units.
    pub units: PathBuf,
    /// The image; nothing for the one that the quadlets name.
    pub image: Option<String>,
    /// Where the programs are, of mode native.
    pub programs: PathBuf,
    /// The accounts' numbers; nothing while there are no accounts yet.
    pub ids: Option<Ids>,
    /// The systemd's version, if it is known.
    pub systemd: Option<u32>,
    /// Whether the Python program's key of the cache is there.
    pub has_migrated_key: bool,
    /// psi-secret, if it is to be put on the host.
    pub driver: Option<Vec<u8>>,
}

/// Units that are started together.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Units {
    /// Those that have a file.
    pub files: Vec<String>,
    /// Those that quadlet makes.
    pub quadlets: Vec<String>,
}

/// Stands for a number in what a dry run shows while there is no account.
const NOT_YET: &str = "N";

impl Target<'_> {
    /// The files that the machine is to have.
    pub fn files(&self) -> Vec<File> {
        let driver = self.driver.clone();
        let driver = driver.map(|program| File::program(&self.config.driver_path, program));
        let shipped = self.shipped();
        let images = shipped.iter().filter_map(|file| self.image_drop_in(file));
        driver
            .into_iter()
            .chain(shipped.iter().map(|file| self.file(file)))
            .chain(images)
            .chain(self.ids_drop_in())
            .chain(self.interval_drop_in())
            .collect()
    }

    /// The units that have to be started, in their order: psi-serve's, then the others, since a timer
    /// or a setup without psi-serve has nothing to do.
    pub fn units(&self) -> [Units; 2] {
        let mut groups = [Units::default(), Units::default()];
        let shipped = self.shipped();
        for file in shipped
            .iter()
            .filter(|file| file.text.contains("\n[Install]\n"))
        {
            let [serve, others] = &mut groups;
            let group = if file.part == Part::Serve {
                serve
            } else {
                others
            };
            match file.name.strip_suffix(".container") {
                Some(name) => group.quadlets.push(format!("{name}.service")),
                None => group.files.push(file.name.to_owned()),
            }
        }
        groups
    }

    fn shipped(&self) -> Vec<&'static Shipped> {
        let is_for_us = |file: &&Shipped| self.gets(file.variant) && self.has(file.part);
        let chosen: Vec<&Shipped> = FILES.iter().filter(is_for_us).collect();
        let has_unit = |file: &&&Shipped| match file.name.split_once(".d/") {
            Some((unit, _)) => chosen.iter().any(|other| other.name == unit),
            None => true,
        };
        chosen.iter().filter(has_unit).copied().collect()
    }

    fn gets(&self, variant: Variant) -> bool {
        match (variant, self.config.scope) {
            (Variant::User, scope) => scope == Scope::User,
            (_, Scope::User) => false,
            (Variant::Machine, _) => true,
            (Variant::Native, _) => self.mode == Mode::Native,
            (Variant::Container, _) => self.mode == Mode::Container,
        }
    }

    fn directory(&self, place: Place) -> PathBuf {
        match place {
            Place::Units => self.units.clone(),
            Place::Quadlets => self.config.systemd_dir.clone(),
            Place::Directory(path) => path.into(),
        }
    }

    /// Whether the machine gets that part.
    pub fn has(&self, part: Part) -> bool {
        let providers = &self.config.providers;
        let backend = self.backend();
        match part {
            Part::Serve => true,
            Part::Tpm => backend == Some(Backend::Tpm) && self.has_tss(),
            Part::Hsm => backend == Some(Backend::Hsm) || providers.nitrokeyhsm.is_some(),
            Part::MigratedKey => self.has_migrated_key && backend == Some(Backend::Tpm),
            Part::Infisical => providers.infisical.is_some(),
            Part::NitrokeyHsm => providers.nitrokeyhsm.is_some(),
            Part::Local => providers.local,
            Part::Before254 => self.systemd.is_some_and(|version| version < 254),
        }
    }

    /// What seals the cache, if it is on.
    pub fn backend(&self) -> Option<Backend> {
        let cache = &self.config.cache;
        cache.backend.filter(|_| cache.enabled)
    }

    /// Whether the cache is to be opened by a TPM that psi-serve can't be given.
    pub fn lacks_tss(&self) -> bool {
        let is_machine = self.config.scope == Scope::System;
        is_machine && self.backend() == Some(Backend::Tpm) && !self.has_tss()
    }

    /// Without that group nobody but root may use the TPM, and a unit that names it does not start.
    fn has_tss(&self) -> bool {
        self.ids.as_ref().is_none_or(|ids| ids.tss.is_some())
    }

    fn file(&self, shipped: &Shipped) -> File {
        let path = self.directory(shipped.place).join(shipped.name);
        match (shipped.variant, shipped.part) {
            (Variant::Native | Variant::User, _) => File::text(path, self.with_programs(shipped)),
            (Variant::Container, Part::Tpm) => File::text(path, self.with_tss(shipped.text)),
            (Variant::Container, Part::Hsm) => File::text(path, self.with_volume(shipped.text)),
            _ => File::text(path, shipped.text),
        }
    }

    fn with_programs(&self, shipped: &Shipped) -> String {
        let theirs = format!("={SHIPPED_PROGRAMS}/psi-");
        let ours = format!("={}/psi-", self.programs.display());
        shipped.text.replace(&theirs, &ours)
    }

    fn with_tss(&self, text: &str) -> String {
        let tss = self.number(|ids| ids.tss);
        text.replace("here 102", &format!("here {tss}"))
            .replace("GroupAdd=102", &format!("GroupAdd={tss}"))
    }

    /// The volume that pcscd's socket is in, as `psi-hsm setup-pcscd` makes it.
    fn with_volume(&self, text: &str) -> String {
        let hsm = self.config.providers.nitrokeyhsm.as_ref();
        let volume = hsm.map_or(SHIPPED_VOLUME, |hsm| &hsm.pcscd_volume);
        text.replace(SHIPPED_VOLUME, volume)
    }

    /// The host's ids of psi, in the place of those that the shipped file has.
    fn ids_drop_in(&self) -> Option<File> {
        if self.mode == Mode::Native {
            return None;
        }
        let uid = self.number(|ids| Some(ids.uid));
        let gid = self.number(|ids| Some(ids.gid));
        let text = IDS
            .replace("999 and 999", &format!("{uid} and {gid}"))
            .replace("999:999", &format!("{uid}:{gid}"))
            .replace("uids=0-999-1", &format!("uids=0-{uid}-1"))
            .replace("gids=0-999-1", &format!("gids=0-{gid}-1"));
        Some(self.quadlet_drop_in("psi-secrets.container", "10-ids.conf", text))
    }

    fn number(&self, of: impl Fn(&Ids) -> Option<u32>) -> String {
        let number = self.ids.as_ref().and_then(of);
        number.map_or(NOT_YET.to_owned(), |number| number.to_string())
    }

    fn image_drop_in(&self, shipped: &Shipped) -> Option<File> {
        let image = self.image.as_ref()?;
        let text = format!("# Written by psi-install: --image\n[Container]\nImage={image}\n");
        let is_quadlet = shipped.name.ends_with(".container");
        is_quadlet.then(|| self.quadlet_drop_in(shipped.name, IMAGE, text))
    }

    fn quadlet_drop_in(&self, quadlet: &str, name: &str, text: String) -> File {
        let directory = self.directory(Place::Quadlets);
        File::text(directory.join(format!("{quadlet}.d/{name}")), text)
    }

    fn interval_drop_in(&self) -> Option<File> {
        const SHIPPED: (&str, &str) = ("1h", "5m");
        let cache = &self.config.cache;
        let (interval, delay) = (&*cache.refresh_interval, &*cache.refresh_randomized_delay);
        if !self.has(Part::Infisical) || (interval, delay) == SHIPPED {
            return None;
        }
        // An empty one takes back those that the timer has.
        let text = format!(
            "# Written by psi-install: cache.refresh_interval and cache.refresh_randomized_delay\n\
             [Timer]\n\
             OnActiveSec=\n\
             OnActiveSec={interval}\n\
             OnUnitActiveSec={interval}\n\
             RandomizedDelaySec={delay}\n"
        );
        let directory = self.directory(Place::Units);
        let path = directory.join("psi-infisical-refresh.timer.d/10-interval.conf");
        Some(File::text(path, text))
    }
}

/// The file of the drop-in that names an image.
const IMAGE: &str = "10-image.conf";

/// Where the image's name was put by an earlier run.
pub fn image_file(quadlets: &Path) -> PathBuf {
    quadlets.join("psi-secrets.container.d").join(IMAGE)
}

/// The image that such a file names.
pub fn image_in(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("Image="))
}

/// Whether it can be an image's name: nothing in it that quadlet, systemd or a shell takes for
/// something else.
pub fn is_image(name: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"._:/@-".contains(&b);
    let starts = name
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    starts && name.bytes().all(is_plain)
}
