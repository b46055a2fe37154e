//! The files that come with PSI, as `units/` and `quadlets/` have them, and where each goes. Everything
//! goes below `/etc` and `/usr/local`: the same on every distribution, also where /usr is read-only.

/// What runs PSI's programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// systemd, as programs of the host.
    Native,
    /// Podman, from an image.
    Container,
}

/// Who gets a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// A machine, whatever the mode.
    Machine,
    /// A machine on which systemd runs the programs.
    Native,
    /// A machine on which Podman does.
    Container,
    /// A user with a Podman of their own.
    User,
}

/// Files that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// psi-serve and its socket.
    Serve,
    /// A TPM opens the cache.
    Tpm,
    /// An HSM opens the cache or decrypts secrets.
    Hsm,
    /// The key of a cache that the Python program made.
    MigratedKey,
    /// psi-setup for Infisical, at boot and by a timer.
    Infisical,
    /// psi-setup for an HSM's secrets.
    NitrokeyHsm,
    /// psi-setup for local values.
    Local,
    /// For a systemd that lacks what the units use.
    Before254,
}

/// A file as it is shipped.
#[derive(Debug)]
pub struct Shipped {
    /// What it is part of.
    pub part: Part,
    /// Who gets it.
    pub variant: Variant,
    /// Where it goes.
    pub place: Place,
    /// Its name there, with that of its drop-in directory.
    pub name: &'static str,
    /// All of it.
    pub text: &'static str,
}

/// A directory of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// systemd's units.
    Units,
    /// Podman's quadlets: `systemd_dir` of the configuration.
    Quadlets,
    /// Any other.
    Directory(&'static str),
}

macro_rules! unit {
    ($part:ident, $variant:ident, $name:literal) => {
        unit!($part, $variant, "", $name)
    };
    ($part:ident, $variant:ident, $folder:literal, $name:literal) => {
        Shipped {
            part: Part::$part,
            variant: Variant::$variant,
            place: Place::Units,
            name: $name,
            text: include_str!(concat!("../../units/", $folder, $name)),
        }
    };
}

macro_rules! quadlet {
    ($part:ident, $name:literal) => {
        quadlet!($part, "", $name)
    };
    ($part:ident, $folder:literal, $name:literal) => {
        Shipped {
            part: Part::$part,
            variant: Variant::Container,
            place: Place::Quadlets,
            name: $name,
            text: include_str!(concat!("../../quadlets/", $folder, $name)),
        }
    };
}

macro_rules! other {
    ($part:ident, $variant:ident, $directory:literal, $name:literal, $file:literal) => {
        Shipped {
            part: Part::$part,
            variant: Variant::$variant,
            place: Place::Directory($directory),
            name: $name,
            text: include_str!(concat!("../../units/", $file)),
        }
    };
}

/// psi-serve's user, which must be there before the others are written.
pub const SYSUSERS: &str = include_str!("../../units/psi.sysusers");

/// The numbers of psi-serve's user and group, 999 and 999 in it.
pub const IDS: &str = include_str!("../../quadlets/ids/psi-secrets.container.d/10-ids.conf");

/// What `psi-install driver-conf` writes, for a psi-secret in [`SHIPPED_PROGRAMS`].
pub const DRIVER_CONF: &str = include_str!("../../units/containers.conf.d/psi.conf");

/// Where the shipped files expect the programs.
pub const SHIPPED_PROGRAMS: &str = "/usr/bin";

/// Whether a unit of that name is one of ours; quadlets are none.
pub fn is_unit(name: &str) -> bool {
    let mut units = FILES.iter().filter(|file| file.place == Place::Units);
    units.any(|unit| unit.name == name)
}

/// What goes to its place as it is, or with one word changed.
pub const FILES: [Shipped; 36] = [
    other!(
        Serve,
        Machine,
        "/usr/local/lib/systemd/catalog",
        "psi.catalog",
        "psi.catalog"
    ),
    other!(
        Serve,
        Machine,
        "/etc/tmpfiles.d",
        "psi.conf",
        "psi.tmpfiles"
    ),
    other!(
        Serve,
        Machine,
        "/etc/systemd/system-preset",
        "90-psi.preset",
        "psi.preset"
    ),
    unit!(Serve, Machine, "psi-secrets.socket"),
    unit!(Serve, Native, "psi-secrets.service"),
    quadlet!(Serve, "psi-secrets.container"),
    unit!(Tpm, Native, "tpm/", "psi-secrets.service.d/10-tpm.conf"),
    quadlet!(Tpm, "tpm/", "psi-secrets.container.d/10-tpm.conf"),
    unit!(Hsm, Native, "hsm/", "psi-secrets.service.d/10-hsm.conf"),
    other!(
        Hsm,
        Native,
        "/etc/polkit-1/rules.d",
        "50-psi.rules",
        "hsm/psi.rules"
    ),
    quadlet!(Hsm, "hsm/", "psi-secrets.container.d/10-hsm.conf"),
    unit!(
        MigratedKey,
        Machine,
        "migrated-key/",
        "psi-cache-key.socket"
    ),
    unit!(
        MigratedKey,
        Machine,
        "migrated-key/",
        "psi-cache-key@.service"
    ),
    unit!(
        MigratedKey,
        Native,
        "migrated-key/",
        "psi-secrets.service.d/10-migrated-key.conf"
    ),
    quadlet!(
        MigratedKey,
        "migrated-key/",
        "psi-secrets.container.d/10-migrated-key.conf"
    ),
    unit!(Infisical, Native, "psi-infisical-setup.service"),
    unit!(Infisical, Native, "psi-infisical-refresh.service"),
    unit!(Infisical, Machine, "psi-infisical-refresh.timer"),
    quadlet!(Infisical, "psi-infisical-setup.container"),
    quadlet!(Infisical, "psi-infisical-refresh.container"),
    unit!(NitrokeyHsm, Native, "psi-nitrokeyhsm-setup.service"),
    quadlet!(NitrokeyHsm, "psi-nitrokeyhsm-setup.container"),
    unit!(Local, Native, "psi-local-setup.service"),
    quadlet!(Local, "psi-local-setup.container"),
    unit!(
        Before254,
        Native,
        "before-254/",
        "psi-secrets.service.d/10-before-254.conf"
    ),
    unit!(
        Before254,
        Native,
        "before-254/",
        "psi-infisical-setup.service.d/10-before-254.conf"
    ),
    unit!(
        Before254,
        Native,
        "before-254/",
        "psi-infisical-refresh.service.d/10-before-254.conf"
    ),
    unit!(
        Before254,
        Native,
        "before-254/",
        "psi-nitrokeyhsm-setup.service.d/10-before-254.conf"
    ),
    unit!(
        Before254,
        Native,
        "before-254/",
        "psi-local-setup.service.d/10-before-254.conf"
    ),
    unit!(Serve, User, "user/", "psi-secrets.socket"),
    unit!(Serve, User, "user/", "psi-secrets.service"),
    unit!(Infisical, User, "user/", "psi-infisical-setup.service"),
    unit!(Infisical, User, "user/", "psi-infisical-refresh.service"),
    unit!(Infisical, User, "user/", "psi-infisical-refresh.timer"),
    unit!(NitrokeyHsm, User, "user/", "psi-nitrokeyhsm-setup.service"),
    unit!(Local, User, "user/", "psi-local-setup.service"),
];
