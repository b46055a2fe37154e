//! `config.yaml`: what is accepted with which defaults, and each mistake with its place.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use psi::config::{Auth, Backend, Config, Environment, OnUnsealFailure, Scope, WorkloadSecrets};
use psi::error::{Error, Kind};
use psi::mapping::ProviderName;

/// Stands for whatever secret may be in a value; it must never be quoted.
const CANARY: &str = "canary-7c41";

const PROVIDER: &str = "providers: {infisical: {auth: {method: universal-auth, client_id: c}, projects: {myproject: {id: i}}}}\n";

struct File {
    dir: tempfile::TempDir,
}

impl File {
    fn new(text: impl AsRef<[u8]>) -> Self {
        let file = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        fs::write(file.path(), text).unwrap();
        file
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("config.yaml")
    }
}

/// root's environment, or another user's, with these variables.
fn environment(uid: u32, variables: &[(&str, &str)]) -> Environment {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Environment {
        uid,
        variables: variables.iter().map(owned).collect(),
    }
}

fn load(text: &str, variables: &[(&str, &str)]) -> Result<Config, Error> {
    let file = File::new(text);
    Config::load(Some(&file.path()), false, &environment(0, variables))
}

fn accepted(text: &str) -> Config {
    load(text, &[]).unwrap()
}

/// What psi-serve says about the configuration at `path`, and its exit status.
fn psi_serve(path: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_psi-serve"))
        .arg("--config")
        .arg(path)
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), text)
}

/// A mistake at `place` (line:column, `line:`, a variable, or nothing but the file) that is described by `what` and, if it is known, answered
/// by `hint`; the program ends with 78 and says the same. No value is quoted.
fn refused_as(
    text: impl AsRef<[u8]>,
    variables: &[(&str, &str)],
    place: &str,
    what: &str,
    hint: &str,
) {
    let file = File::new(text);
    let path = file.path();
    let error = Config::load(Some(&path), false, &environment(0, variables)).unwrap_err();
    assert_eq!(error.kind(), Kind::Config, "{error}");
    let said = error.to_string();
    let file = path.display();
    let begins = match place {
        "" => file.to_string(),
        line if line.ends_with(':') => format!("{file}:{line}"),
        place if place.starts_with(|c: char| c.is_ascii_digit()) => format!("{file}:{place}: "),
        variable => format!("{variable}: "),
    };
    assert!(said.starts_with(&begins), "{begins} expected: {said}");
    assert!(said.contains(what), "{what} expected: {said}");
    let next = error.next_step().unwrap_or_default();
    assert!(next.contains(hint), "{hint} expected: {next}");
    let (code, stderr) = psi_serve(&path, &[], variables);
    assert_eq!(code, 78, "{stderr}");
    assert!(stderr.contains(&said) && stderr.contains(next), "{stderr}");
    for text in [said.as_str(), next, &stderr] {
        assert!(!text.contains(CANARY), "{text}");
    }
}

fn refused(text: impl AsRef<[u8]>, place: &str, what: &str, hint: &str) {
    refused_as(text, &[], place, what, hint);
}

#[test]
fn an_empty_file_means_the_defaults() {
    for text in [
        "",
        "# nothing\n",
        "---\n",
        "state_dir:\ncache:\nproviders:\nworkloads:\n",
    ] {
        let config = accepted(text);
        assert_eq!(config.scope, Scope::System);
        assert_eq!(config.state_dir, Path::new("/var/lib/psi"));
        assert_eq!(config.socket, Path::new("/run/psi/psi.sock"));
        assert_eq!(config.systemd_dir, Path::new("/etc/containers/systemd"));
        assert_eq!(config.podman_socket, Path::new("/run/podman/podman.sock"));
        assert_eq!(config.driver_path, Path::new("/usr/bin/psi-secret"));
        assert_eq!(config.lookup_timeout, Duration::from_secs(2));
        assert_eq!(config.prune_after, Duration::from_secs(7 * 24 * 3600));
        assert!(config.allowed_uids.is_empty());
        assert!(config.ca_cert.is_none() && config.socket_token.is_none());
        assert!(config.cache.enabled && config.cache.backend.is_none());
        assert_eq!(config.cache.path, Path::new("/var/lib/psi/cache.enc"));
        assert_eq!(config.cache.refresh_interval, "1h");
        assert_eq!(config.cache.refresh_randomized_delay, "5m");
        assert_eq!(config.cache.tpm.tcti, "device:/dev/tpmrm0");
        assert_eq!(config.cache.tpm.pcrs, [7]);
        assert_eq!(config.cache.on_unseal_failure, OnUnsealFailure::Keep);
        assert!(!config.cache.auto_reseal);
        assert!(config.workloads.is_empty());
        assert_eq!(
            config.warnings.len(),
            1,
            "no backend: {:?}",
            config.warnings
        );
    }
}

#[test]
fn the_user_of_a_service_has_the_machine_wide_directories() {
    let file = File::new("");
    let load = |uid| Config::load(Some(&file.path()), false, &environment(uid, &[])).unwrap();
    for uid in [1, 999] {
        assert_eq!(load(uid).scope, Scope::System);
        assert_eq!(load(uid).state_dir, Path::new("/var/lib/psi"));
        assert_eq!(load(uid).socket, Path::new("/run/psi/psi.sock"));
    }
    assert_eq!(load(1000).scope, Scope::User);
}

#[test]
fn a_person_has_the_xdg_directories() {
    let file = File::new("");
    let load =
        |variables| Config::load(Some(&file.path()), false, &environment(1000, variables)).unwrap();
    let config = load(&[("HOME", "/home/u"), ("XDG_RUNTIME_DIR", "/run/user/1000")]);
    assert_eq!(config.scope, Scope::User);
    assert_eq!(config.state_dir, Path::new("/home/u/.local/share/psi"));
    assert_eq!(config.socket, Path::new("/run/user/1000/psi/psi.sock"));
    assert_eq!(
        config.systemd_dir,
        Path::new("/home/u/.config/containers/systemd")
    );
    assert_eq!(
        config.podman_socket,
        Path::new("/run/user/1000/podman/podman.sock")
    );
    let config = load(&[("HOME", "/home/u")]);
    assert_eq!(config.socket, Path::new("/run/user/1000/psi/psi.sock"));
}

#[test]
fn the_documented_file_is_accepted_whole() {
    let config = accepted(
        r#"
state_dir: /srv/psi
systemd_dir: /etc/containers/systemd
ca_cert: /etc/pki/tls/certs/ca-bundle.crt
socket_token: "a-token_of.16+chars"
scope: system
providers:
  infisical:
    api_url: https://infisical.example.com/
    verify_ssl: true
    ca_cert: /path
    token: {ttl: 60}
    tls: {some: thing}
    auth: {method: universal-auth, client_id: one, client_secret: s}
    projects:
      myproject: {id: uuid, environment: dev, auth: {method: aws-iam, identity_id: i}}
      other: {id: uuid2}
  nitrokeyhsm:
    pkcs11_module: /usr/lib/opensc-pkcs11.so
    slot: 1
    key_label: label
    key_id: "0a"
    pin: "123456"
    pcscd_volume: vol
  local: {}
workloads:
  myapp@:
    provider: infisical
    unit: myapp@.container
    depends_on: [psi-infisical-setup.service]
    secrets:
      - {project: myproject, path: myapp//sub/, recursive: true}
      - {project: other}
  infisical: {provider: nitrokeyhsm}
  bootstrap: {provider: local, secrets: [{key: A, as: B}, {key: C}]}
cache:
  enabled: true
  backend: tpm
  path: /srv/psi/other.enc
  refresh_interval: 90
  refresh_randomized_delay: 1h 30min
"#,
    );
    let infisical = config.providers.infisical.as_ref().unwrap();
    assert_eq!(infisical.api_url, "https://infisical.example.com");
    assert_eq!(infisical.token_ttl, Duration::from_secs(60));
    assert!(
        matches!(&*infisical.projects["myproject"].auth, Auth::NotBuilt { method } if method == "aws-iam")
    );
    assert!(
        matches!(&*infisical.projects["other"].auth, Auth::Universal { client_id, .. } if client_id == "one")
    );
    assert_eq!(infisical.projects["other"].environment, "prod");
    let hsm = config.providers.nitrokeyhsm.as_ref().unwrap();
    assert_eq!((hsm.slot, hsm.key_id.as_slice()), (1, [0x0a].as_slice()));
    assert_eq!(
        hsm.public_key_cache,
        Path::new("/srv/psi/nitrokeyhsm-pubkey.der")
    );
    assert!(config.providers.local);
    let WorkloadSecrets::Sources(sources) = &config.workloads["myapp@"].secrets else {
        unreachable!("an infisical workload has sources")
    };
    assert_eq!(
        (sources[0].path.as_str(), sources[0].recursive),
        ("/myapp/sub", true)
    );
    assert_eq!(
        (sources[1].path.as_str(), sources[1].recursive),
        ("/", false)
    );
    assert_eq!(
        config.workloads["infisical"].provider,
        ProviderName::NitrokeyHsm
    );
    assert_eq!(config.workloads["infisical"].unit, "infisical.container");
    let WorkloadSecrets::Keys(keys) = &config.workloads["bootstrap"].secrets else {
        unreachable!("a local workload has keys")
    };
    assert_eq!(
        (keys[0].target.as_str(), keys[1].target.as_str()),
        ("B", "C")
    );
    assert_eq!(config.cache.backend, Some(Backend::Tpm));
    assert_eq!(config.cache.refresh_interval, "90s");
    assert_eq!(config.cache.refresh_randomized_delay, "1h 30min");
    let warnings = config.warnings.join("\n");
    assert_eq!(config.warnings.len(), 2, "{warnings}");
    assert!(
        warnings.contains("scope") && warnings.contains("issues no certificates"),
        "{warnings}"
    );
}

#[test]
fn an_unknown_key_at_the_top_is_an_error_with_the_nearest_name() {
    refused(
        format!("state_dri: {CANARY}\n"),
        "1:1",
        "unknown key \"state_dri\"",
        "did you mean `state_dir`?",
    );
    refused(
        format!("cache: {{}}\nzzz: {CANARY}\n"),
        "2:1",
        "unknown key \"zzz\"",
        "known keys: ",
    );
    refused(
        format!("# x\n\"a\\nb\": {CANARY}\n"),
        "2:1",
        "unknown key (not shown: it may be a value)",
        "known keys: ",
    );
}

#[test]
fn an_unknown_nested_key_is_a_warning_and_under_strict_an_error() {
    let cases = [
        (
            "cache:\n  backend: tpm\n  backendd: canary-7c41\n",
            "3:3",
            "backend",
        ),
        ("cache:\n  backend: tpm\n  tpm: {pcr: [7]}\n", "3:9", "pcrs"),
        (
            "cache: {backend: tpm}\nproviders:\n  infisical:\n    api-url: canary-7c41\n",
            "4:5",
            "api_url",
        ),
        (
            "cache: {backend: tpm}\nproviders:\n  infisical:\n    token: {tll: 3}\n",
            "4:13",
            "ttl",
        ),
        (
            "cache: {backend: tpm}\nproviders:\n  locall: {}\n",
            "3:3",
            "local",
        ),
    ];
    for (text, place, nearest) in cases {
        let file = File::new(text);
        let place = format!("{}:{place}: unknown key", file.path().display());
        let hint = format!("did you mean `{nearest}`?");
        let config = Config::load(Some(&file.path()), false, &environment(0, &[])).unwrap();
        let [warning] = config.warnings.as_slice() else {
            unreachable!("one warning, not {:?}", config.warnings)
        };
        assert!(
            warning.starts_with(&place) && warning.contains(&hint),
            "{warning}"
        );
        assert!(!warning.contains(CANARY), "{warning}");
        let error = Config::load(Some(&file.path()), true, &environment(0, &[])).unwrap_err();
        assert!(error.to_string().starts_with(&place), "{error}");
        assert_eq!(error.next_step(), Some(hint.as_str()));
        let (code, stderr) = psi_serve(&file.path(), &["--strict"], &[]);
        assert_eq!(code, 78, "{stderr}");
        assert!(
            stderr.contains(&place) && !stderr.contains(CANARY),
            "{stderr}"
        );
    }
}

#[test]
fn a_value_of_the_wrong_type_is_named_with_what_it_must_be() {
    let cases = [
        (
            "[canary-7c41]",
            "1:1",
            "the top level must be a mapping, not a list",
        ),
        (
            "canary-7c41",
            "1:1",
            "the top level must be a mapping, not text",
        ),
        (
            "cache: canary-7c41",
            "1:8",
            "cache must be a mapping, not text",
        ),
        (
            "cache: [canary-7c41]",
            "1:8",
            "cache must be a mapping, not a list",
        ),
        (
            "state_dir: 7",
            "1:12",
            "state_dir must be text (put it in quotes), not a number",
        ),
        ("state_dir: [canary-7c41]", "1:12", "state_dir must be text"),
        (
            "socket_token: 12345678",
            "1:15",
            "socket_token must be text",
        ),
        (
            "cache: {enabled: canary-7c41}",
            "1:18",
            "cache.enabled must be true or false",
        ),
        (
            "cache: {enabled: yes}",
            "1:18",
            "cache.enabled must be true or false",
        ),
        (
            "cache: {enabled: 1}",
            "1:18",
            "cache.enabled must be true or false, not a number",
        ),
        (
            "allowed_uids: 7",
            "1:15",
            "allowed_uids must be a list, not a number",
        ),
        (
            "allowed_uids: canary-7c41",
            "1:15",
            "allowed_uids must be a list",
        ),
        (
            "allowed_uids: [1000, 65534]",
            "1:22",
            "allowed_uids has 65534, which stands for every user that psi-serve has no number for",
        ),
        (
            "providers: {nitrokeyhsm: {slot: canary-7c41}}",
            "1:33",
            "providers.nitrokeyhsm.slot must be a whole number",
        ),
        (
            "providers: {nitrokeyhsm: {slot: -1}}",
            "1:33",
            "providers.nitrokeyhsm.slot must be a whole number",
        ),
        (
            "providers: {nitrokeyhsm: {slot: 99999999999999999999}}",
            "1:33",
            "providers.nitrokeyhsm.slot must be a whole number",
        ),
        (
            "providers: {nitrokeyhsm: {pin: 123456}}",
            "1:32",
            "providers.nitrokeyhsm.pin must be text",
        ),
        (
            "providers: {nitrokeyhsm: {key_id: 02}}",
            "1:35",
            "providers.nitrokeyhsm.key_id must be text",
        ),
        (
            "providers: {infisical: {token: canary-7c41}}",
            "1:32",
            "providers.infisical.token must be a mapping",
        ),
        (
            "workloads: [canary-7c41]",
            "1:12",
            "workloads must be a mapping, not a list",
        ),
    ];
    for (text, place, what) in cases {
        refused(text, place, what, "");
    }
}

#[test]
fn what_is_no_plain_yaml_is_refused_with_its_place() {
    refused(
        format!("socket: /a\nsocket: {CANARY}\n"),
        "2:1",
        "this key was there before",
        "keep one",
    );
    refused(
        format!("cache:\n  path: /a\n  path: {CANARY}\n"),
        "3:3",
        "this key was there before",
        "keep one",
    );
    let alias = format!("ca_cert: &a {CANARY}\nsocket: *a\n");
    refused(alias, "2:", "aliases", "");
    let deep = format!("cache: {}{CANARY}{}\n", "[".repeat(40), "]".repeat(40));
    refused(deep, "1:", "more than 16 levels", "");
    let many = format!("allowed_uids: [{}1]\n", "1,".repeat(20_000));
    refused(many, "1:", "10,000 values", "");
    for text in [
        "a: [canary-7c41\n",
        "a: 'canary-7c41\n",
        "cache:\n\tpath: canary-7c41\n",
        "a: b: canary-7c41\n",
        "a: @canary-7c41\n",
        "a: 1\n---\nb: canary-7c41\n",
    ] {
        refused(text, "", "this is not valid YAML", "quotes");
    }
}

#[test]
fn a_file_that_cannot_be_used_is_named() {
    refused(b"socket: \xff\xfe", "", "is not UTF-8", "UTF-8");
    refused(
        "#".repeat((1 << 20) + 1),
        "",
        "larger than 1 MiB",
        "PSI_CONFIG",
    );
    assert!(load(&"#".repeat(1 << 20), &[]).is_ok());
    let dir = tempfile::tempdir().unwrap();
    for (path, why) in [
        (dir.path().join("missing.yaml"), "No such file"),
        (dir.path().to_owned(), "directory"),
    ] {
        let error = Config::load(Some(&path), false, &environment(0, &[])).unwrap_err();
        let said = error.to_string();
        assert!(
            said.contains(&path.display().to_string()) && said.contains(why),
            "{said}"
        );
        assert!(error.next_step().unwrap().contains("--config FILE"));
        let (code, stderr) = psi_serve(&path, &[], &[]);
        assert_eq!(code, 78, "{stderr}");
        assert!(stderr.contains(&said), "{stderr}");
    }
}

#[test]
fn a_project_needs_auth_of_its_own_or_the_global_one() {
    let text = "providers:\n  infisical:\n    projects:\n      good: {id: i, auth: {method: universal-auth, client_id: c}}\n      bad: {id: canary-7c41}\n";
    refused(
        text,
        "5:12",
        "project \"bad\" has no auth",
        "providers.infisical.auth",
    );
}

#[test]
fn a_login_must_be_complete_and_of_a_known_method() {
    let cases = [
        (
            "{client_id: canary-7c41}",
            "auth.method is missing",
            "universal-auth",
        ),
        (
            "{method: canary-7c41}",
            "auth.method is none of: universal-auth, aws-iam, gcp, azure",
            "",
        ),
        (
            "{method: universal-auht, client_id: c}",
            "auth.method is none of",
            "did you mean `universal-auth`?",
        ),
        (
            "{method: universal-auth, client_secret: canary-7c41}",
            "auth.client_id is missing",
            "",
        ),
        (
            "{method: universal-auth, client_id: ''}",
            "auth.client_id is empty",
            "",
        ),
        (
            "{method: universal-auth, client_id: c, client_secret: 12345}",
            "auth.client_secret must be text",
            "",
        ),
        ("{method: gcp}", "auth.identity_id is missing", ""),
    ];
    for (auth, what, hint) in cases {
        let global = format!("providers:\n  infisical:\n    auth: {auth}\n");
        refused(global, "3:", &format!("providers.infisical.{what}"), hint);
        let own =
            format!("providers:\n  infisical:\n    projects:\n      p: {{id: i, auth: {auth}}}\n");
        refused(
            own,
            "4:",
            &format!("providers.infisical.projects.p.{what}"),
            hint,
        );
    }
    refused(
        "providers: {infisical: {projects: {p: {auth: {method: gcp, identity_id: i}}}}}",
        "1:39",
        "projects.p.id is missing",
        "",
    );
}

#[test]
fn a_workload_needs_a_provider_that_is_configured() {
    let text = "providers: {local: {}}\nworkloads:\n  myapp:\n    provider: infisical\n";
    refused(
        text,
        "4:5",
        "workload myapp needs provider infisical",
        "configured: local",
    );
    refused(
        "workloads:\n  myapp:\n",
        "2:8",
        "workload myapp needs provider infisical",
        "configured: none",
    );
    let text = "providers: {local: {}}\nworkloads:\n  myapp: {provider: locl}\n";
    refused(
        text,
        "3:21",
        "workloads.myapp.provider is none of",
        "did you mean `local`?",
    );
}

#[test]
fn a_local_workload_lists_names_that_can_be_put_each_target_once() {
    let with = |secrets: &str| {
        format!(
            "providers: {{local: {{}}}}\nworkloads:\n  w: {{provider: local, secrets: [{secrets}]}}\n"
        )
    };
    accepted(&with("{key: A}, {key: A, as: B}, {key: a.b-c_0}"));
    let too_long = "a".repeat(254);
    for key in ["a/b", "'a b'", ".a", "-a", &too_long] {
        refused(
            with(&format!("{{key: {key}}}")),
            "3:40",
            "is not the name of a local value",
            "letters, digits",
        );
    }
    for twice in ["{key: A}, {key: A}", "{key: B, as: A}, {key: A}"] {
        let what = "workloads.w.secrets lists \"A\" twice";
        refused(with(twice), "3:", what, "`as:`");
    }
}

#[test]
fn a_workload_names_folders_of_configured_projects() {
    let with = |workload: &str| format!("{PROVIDER}workloads:\n  myapp: {workload}\n");
    let cases = [
        (
            "{secrets: [{project: myprojct}]}",
            "3:31",
            "workload myapp names project \"myprojct\"",
            "did you mean `myproject`?",
        ),
        (
            "{secrets: [{project: zzz}]}",
            "3:31",
            "names project \"zzz\"",
            "configured: myproject",
        ),
        (
            "{secrets: [{path: /canary-7c41}]}",
            "3:21",
            "secrets[0].project is missing",
            "",
        ),
        ("{}", "3:10", "lists no folders", "secrets: ["),
        ("{secrets: []}", "3:10", "lists no folders", "secrets: ["),
        (
            "{secrets: canary-7c41}",
            "3:20",
            "workloads.myapp.secrets must be a list",
            "",
        ),
        (
            "{secrets: [canary-7c41]}",
            "3:21",
            "secrets[0] must be a mapping",
            "",
        ),
        (
            "{secrets: [{project: myproject, path: /../canary-7c41}]}",
            "3:48",
            "secrets[0].path is no folder",
            "/myapp",
        ),
        (
            "{secrets: [{project: myproject, recursive: 1}]}",
            "3:53",
            "secrets[0].recursive must be true or false",
            "",
        ),
        (
            "{secrets: [{project: myproject}], unit: ../x.container}",
            "3:50",
            "myapp.unit must name a quadlet file",
            "myapp.container",
        ),
        (
            "{secrets: [{project: myproject}], unit: x.service}",
            "3:50",
            "myapp.unit must name a quadlet file",
            "myapp.container",
        ),
        (
            "{secrets: [{project: myproject}], depends_on: [a b.service]}",
            "3:57",
            "myapp.depends_on must list units",
            "psi-infisical-setup.service",
        ),
        (
            "{secrets: [{project: myproject}], depends_on: ['x.service\\']}",
            "3:57",
            "myapp.depends_on must list units",
            "psi-infisical-setup.service",
        ),
    ];
    for (workload, place, what, hint) in cases {
        refused(with(workload), place, what, hint);
    }
}

#[test]
fn two_workloads_can_not_write_the_drop_in_of_one_unit() {
    let with = |units: [&str; 2]| {
        let [first, second] = units;
        format!(
            "providers: {{local: }}\nworkloads:\n  a: {{provider: local{first}}}\n  b: {{provider: local{second}}}\n"
        )
    };
    let second = ", unit: a.container";
    let what = "workloads a and b have the same unit a.container";
    refused(with(["", second]), "4:3", what, "Secret=b--KEY");
    refused(
        with([", unit: b.container", ""]),
        "4:3",
        "workloads a and b have the same unit b.container",
        "one workload",
    );
    accepted(&with(["", ", unit: a@.container"]));
}

#[test]
fn a_workload_name_can_be_part_of_a_podman_name_and_of_a_path() {
    let long = "a".repeat(101);
    for bad in ["../x", "a/b", "a b", "\"\"", ".x", "-x", "a--b", "é", &long] {
        let text =
            format!("{PROVIDER}workloads:\n  {bad}: {{secrets: [{{project: myproject}}]}}\n");
        refused(
            text,
            "3:3",
            "is not the name of a workload",
            "letters, digits",
        );
    }
}

#[test]
fn paths_are_absolute_and_plain_where_a_shell_reads_them() {
    for key in [
        "state_dir",
        "socket",
        "systemd_dir",
        "podman_socket",
        "driver_path",
        "ca_cert",
    ] {
        let column = key.len() + 3;
        let place = format!("1:{column}");
        refused(
            format!("{key}: canary-7c41/x"),
            &place,
            &format!("{key} must be an absolute path"),
            "",
        );
        refused(
            format!("{key}: ~/canary-7c41"),
            &place,
            "`~` is not expanded",
            "",
        );
        refused(
            format!("{key}: \"/canary-7c41\\n\""),
            &place,
            "holds a control character",
            "",
        );
    }
    refused(
        "driver_path: /usr/bin/$(canary-7c41)",
        "1:",
        "driver_path may have letters",
        "shell",
    );
    refused(
        "driver_path: /opt/my programs/psi-secret",
        "1:",
        "driver_path may have letters",
        "shell",
    );
    refused(
        "cache: {path: cache.enc}",
        "1:15",
        "cache.path must be an absolute path",
        "",
    );
}

#[test]
fn numbers_spans_and_addresses_are_checked() {
    let cases = [
        (
            "lookup_timeout: canary-7c41",
            "1:17",
            "lookup_timeout must be a time span such as 2s",
            "",
        ),
        (
            "lookup_timeout: -1",
            "1:17",
            "lookup_timeout must be a time span",
            "",
        ),
        (
            "prune_after: 1.5h",
            "1:14",
            "prune_after must be a time span",
            "",
        ),
        (
            "cache: {refresh_interval: often}",
            "1:27",
            "cache.refresh_interval must be a time span",
            "",
        ),
        (
            "cache: {refresh_randomized_delay: true}",
            "1:35",
            "cache.refresh_randomized_delay must be a time span",
            "",
        ),
        (
            "allowed_uids: [1000, canary-7c41]",
            "1:22",
            "allowed_uids must list user ids",
            "",
        ),
        (
            "allowed_uids: [-1]",
            "1:16",
            "allowed_uids must list user ids",
            "",
        ),
        (
            "allowed_uids: [4294967296]",
            "1:16",
            "allowed_uids must list user ids",
            "",
        ),
        (
            "cache: {backend: tpmm}",
            "1:18",
            "cache.backend is none of: tpm, hsm",
            "did you mean `tpm`?",
        ),
        (
            "cache: {on_unseal_failure: canary-7c41}",
            "1:28",
            "cache.on_unseal_failure is none of: keep, recreate",
            "",
        ),
        (
            "cache: {tpm: {tcti: 'swtpm:path=/canary-7c41'}}",
            "1:21",
            "cache.tpm.tcti",
            "swtpm:host=127.0.0.1,port=2321",
        ),
        (
            "cache: {tpm: {pcrs: 7}}",
            "1:21",
            "cache.tpm.pcrs must be a list",
            "",
        ),
        (
            "cache: {tpm: {pcrs: [7, 24]}}",
            "1:25",
            "cache.tpm.pcrs must list numbers from 0 to 23",
            "",
        ),
        (
            "providers: {nitrokeyhsm: {key_id: '2'}}",
            "1:35",
            "key_id must be hexadecimal digits in pairs",
            "02",
        ),
        (
            "providers: {nitrokeyhsm: {key_id: 'canary-7c41'}}",
            "1:35",
            "key_id must be hexadecimal digits in pairs",
            "02",
        ),
        (
            "providers: {nitrokeyhsm: {}, pkcs11: {}}",
            "1:38",
            "are the same provider",
            "keep one",
        ),
    ];
    for (text, place, what, hint) in cases {
        refused(text, place, what, hint);
    }
    for bad in [
        "canary-7c41",
        "ftp://canary-7c41",
        "https://",
        "https:///x",
        "https://u:canary-7c41@h",
        "https://h?canary-7c41",
        "https://h/#canary-7c41",
        "https://h canary-7c41",
        "https://é",
    ] {
        refused(
            format!("providers: {{infisical: {{api_url: '{bad}'}}}}"),
            "1:34",
            "providers.infisical.api_url must",
            "https://infisical.example.com",
        );
    }
}

#[test]
fn a_socket_token_has_eight_plain_characters_at_least() {
    for bad in [
        "short",
        "''",
        "canary-7c41 x",
        "\"canary-7c41\\n\\n\"",
        "canary-7c41é",
    ] {
        refused(
            format!("socket_token: {bad}"),
            "1:15",
            "socket_token must have at least 8",
            "",
        );
    }
    let token = |config: &Config| config.socket_token.as_ref().unwrap().expose().to_vec();
    assert_eq!(
        token(&accepted("socket_token: \"a.b_c~d+e/f=g-\\n\"")),
        b"a.b_c~d+e/f=g-"
    );
}

#[test]
fn variables_override_the_file_and_are_named_when_they_are_wrong() {
    let text = "state_dir: /file\nsocket_token: file-token\nlookup_timeout: 9s\n";
    let variables = [
        ("PSI_STATE_DIR", "/v/state"),
        ("PSI_SOCKET", "/v/socket"),
        ("PSI_SYSTEMD_DIR", "/v/systemd"),
        ("PSI_PODMAN_SOCKET", "/v/podman"),
        ("PSI_DRIVER_PATH", "/v/psi-secret"),
        ("PSI_CA_CERT", "/v/ca"),
        ("PSI_SOCKET_TOKEN", "variable-token"),
        ("PSI_LOOKUP_TIMEOUT", "3s"),
        ("PSI_PRUNE_AFTER", "1d"),
    ];
    for text in [text, ""] {
        let config = load(text, &variables).unwrap();
        assert_eq!(config.state_dir, Path::new("/v/state"));
        assert_eq!(config.cache.path, Path::new("/v/state/cache.enc"));
        assert_eq!(config.socket, Path::new("/v/socket"));
        assert_eq!(config.systemd_dir, Path::new("/v/systemd"));
        assert_eq!(config.podman_socket, Path::new("/v/podman"));
        assert_eq!(config.driver_path, Path::new("/v/psi-secret"));
        assert_eq!(config.ca_cert.as_deref(), Some(Path::new("/v/ca")));
        assert_eq!(config.socket_token.unwrap().expose(), b"variable-token");
        assert_eq!(config.lookup_timeout, Duration::from_secs(3));
        assert_eq!(config.prune_after, Duration::from_secs(24 * 3600));
    }
    let config = load(text, &[("PSI_STATE_DIR", "")]).unwrap();
    assert_eq!(
        config.state_dir,
        Path::new("/file"),
        "an empty variable is none"
    );
    for (name, _) in variables {
        refused_as(text, &[(name, "canary-7c41\u{7f}")], name, "must", "");
    }
}

#[test]
fn the_configuration_is_found_by_option_then_variable_then_place() {
    let one = File::new("socket: /one");
    let two = File::new("socket: /two");
    let two_path = two.path();
    let with_variable = environment(0, &[("PSI_CONFIG", two_path.to_str().unwrap())]);
    let socket = |file: Option<&Path>| Config::load(file, false, &with_variable).unwrap().socket;
    assert_eq!(socket(Some(&one.path())), Path::new("/one"));
    assert_eq!(socket(None), Path::new("/two"));
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join(".config/psi");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("config.yaml"), "socket: /three").unwrap();
    let user = environment(1000, &[("HOME", home.path().to_str().unwrap())]);
    assert_eq!(
        Config::load(None, false, &user).unwrap().socket,
        Path::new("/three")
    );
}

#[test]
fn podmans_own_variable_names_its_socket_unless_the_file_does() {
    let podman = |text: &str, host: &str| load(text, &[("CONTAINER_HOST", host)]);
    let socket = |text: &str, host: &str| podman(text, host).unwrap().podman_socket;
    assert_eq!(
        socket("", "unix:///v/podman.sock"),
        Path::new("/v/podman.sock")
    );
    assert_eq!(
        socket("podman_socket: /f", "unix:///v/podman.sock"),
        Path::new("/f")
    );
    let config = podman(
        "cache: {backend: tpm}",
        "ssh://root@canary-7c41/run/podman/podman.sock",
    )
    .unwrap();
    assert_eq!(config.podman_socket, Path::new("/run/podman/podman.sock"));
    assert!(
        config.warnings.join("\n").starts_with("CONTAINER_HOST: "),
        "{:?}",
        config.warnings
    );
    assert!(!config.warnings.join("\n").contains(CANARY));
    refused_as(
        "",
        &[("CONTAINER_HOST", "unix://canary-7c41")],
        "CONTAINER_HOST",
        "must be an absolute path",
        "unix:///",
    );
}

#[test]
fn what_is_risky_is_accepted_with_a_warning() {
    let warnings = |text: &str| {
        accepted(&format!("cache: {{backend: tpm}}\n{text}"))
            .warnings
            .join("\n")
    };
    assert_eq!(warnings(""), "");
    assert_eq!(warnings("allowed_uids: [0, 1000, 65535]"), "");
    assert!(warnings("allowed_uids: [65536]").contains("Other callers"));
    assert!(
        warnings("providers: {infisical: {verify_ssl: false}}").contains("verify_ssl is false")
    );
    for clear in [
        "http://h",
        "http://127.evil.example",
        "http://localhost.evil.example",
    ] {
        let text = format!("providers: {{infisical: {{api_url: '{clear}'}}}}");
        assert!(warnings(&text).contains("in clear"), "{clear}");
    }
    for loopback in [
        "http://127.0.0.1:8080",
        "http://localhost",
        "http://[::1]:80/x",
    ] {
        let text = format!("providers: {{infisical: {{api_url: '{loopback}'}}}}");
        assert_eq!(warnings(&text), "", "{loopback}");
    }
}

#[test]
fn no_secret_of_the_file_is_shown_by_debug() {
    let config = accepted(&format!(
        "socket_token: {CANARY}\nproviders: {{nitrokeyhsm: {{pin: {CANARY}}}, infisical: {{auth: {{method: universal-auth, client_id: c, client_secret: {CANARY}}}}}}}\n"
    ));
    assert!(!format!("{config:?}").contains(CANARY));
    let variables = BTreeMap::from([("PSI_SOCKET_TOKEN".to_owned(), CANARY.to_owned())]);
    let environment = Environment { uid: 0, variables };
    assert!(!format!("{environment:?}").contains(CANARY));
}
