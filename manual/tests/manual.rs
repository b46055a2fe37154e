//! Man pages and completions are whole, and no text names a command, an option, a test or a page
//! that there is not.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Output};

use clap::Command;
use tempfile::TempDir;

/// What psi-manual writes, in a directory that goes with it.
fn written() -> TempDir {
    let share = tempfile::tempdir().unwrap();
    let manual = Process::new(env!("CARGO_BIN_EXE_psi-manual"));
    run(manual, &[share.path().to_str().unwrap()]);
    share
}

fn run(mut program: Process, arguments: &[&str]) -> Output {
    let output = program.args(arguments).output();
    let output = output.unwrap_or_else(|e| panic!("{program:?}: {e}"));
    assert!(output.status.success(), "{program:?}: {output:?}");
    output
}

/// The pages by their names, as groff renders them; it may warn of nothing.
fn pages(share: &Path) -> BTreeMap<String, String> {
    let directory = fs::read_dir(share.join("man/man1")).unwrap();
    let page = |path: PathBuf| {
        let mut groff = Process::new("groff");
        groff.args(["-ww", "-man", "-Kutf8", "-Tutf8", "-P-cbou", "-rLL=200n"]);
        let output = run(groff, &[path.to_str().unwrap()]);
        let warnings = String::from_utf8_lossy(&output.stderr);
        assert_eq!(warnings, "", "{}", path.display());
        let text = String::from_utf8(output.stdout).unwrap();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        // What groff sets for a hyphen and an apostrophe that may be pasted.
        (name, text.replace('\u{2010}', "-"))
    };
    directory.map(|entry| page(entry.unwrap().path())).collect()
}

/// `program` and all commands below it, each with its page's name.
fn all(program: &Command) -> Vec<(String, Command)> {
    fn add(prefix: &str, command: &Command, into: &mut Vec<(String, Command)>) {
        let name = match prefix {
            "" => command.get_name().to_owned(),
            _ => format!("{prefix}-{}", command.get_name()),
        };
        for sub in command.get_subcommands() {
            add(&name, sub, into);
        }
        into.push((name, command.clone()));
    }
    let mut program = program.clone().disable_help_subcommand(true);
    program.build();
    let mut commands = Vec::new();
    add("", &program, &mut commands);
    commands
}

#[test]
fn every_program_has_a_page_with_all_that_its_help_names() {
    let share = written();
    let pages = pages(share.path());
    for program in psi_manual::programs() {
        for (name, command) in all(&program) {
            // psi-secret's commands are one line each, on its own page.
            let is_one_line = name.starts_with("psi-secret-");
            let page = &pages[if is_one_line { "psi-secret" } else { &name }];
            let options = command.get_arguments().filter_map(|a| a.get_long());
            for option in options {
                assert!(page.contains(&format!("--{option}")), "{name}: --{option}");
            }
            for sub in command.get_subcommands() {
                assert!(page.contains(sub.get_name()), "{name}: {sub}");
            }
        }
    }
    for (name, page) in &pages {
        for section in [
            "NAME",
            "SYNOPSIS",
            "OPTIONS",
            "EXIT STATUS",
            "FILES",
            "ENVIRONMENT",
            "SEE ALSO",
        ] {
            assert!(
                page.lines().any(|line| line == section),
                "{name}: {section}"
            );
        }
    }
}

#[test]
fn a_page_that_is_referred_to_is_there() {
    let share = written();
    let pages = pages(share.path());
    let mut texts: Vec<(PathBuf, String)> = files("src", "rs").collect();
    texts.extend(pages.iter().map(|(name, page)| (name.into(), page.clone())));
    let mut found = 0;
    for (place, text) in texts {
        for (at, _) in text.match_indices("(1)") {
            let word = |c: char| !(c.is_ascii_lowercase() || c == '-');
            let name = text[..at].rsplit(word).next().unwrap();
            if name.starts_with("psi-") {
                assert!(pages.contains_key(name), "{}: {name}(1)", place.display());
                found += 1;
            }
        }
    }
    assert!(found > 10, "{found}");
}

#[test]
fn bash_completes_commands_and_options() {
    let share = written();
    let completions = share.path().join("bash-completion/completions");
    let complete = |program: &str, words: &[&str], last: &str| {
        let script = format!(
            "source {}; how=$(complete -p {program}); how=${{how#*-F }}; \
             COMP_WORDS=({program} {} {last}); COMP_CWORD={}; ${{how%% *}} {program} {last} ''; \
             echo \"${{COMPREPLY[@]}}\"",
            completions.join(program).display(),
            words.join(" "),
            words.len() + 1,
        );
        let output = run(Process::new("bash"), &["-c", &script]);
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(complete("psi-cachectl", &[], "slo"), "slots");
    assert_eq!(complete("psi-cachectl", &["slots"], "res"), "reseal");
    assert_eq!(complete("psi-cachectl", &["init"], "--rec"), "--recovery");
    assert_eq!(complete("psi-setup", &[], "--dry"), "--dry-run");
    assert_eq!(complete("psi-serve", &[], "--check"), "--check-health");
    assert_eq!(complete("psi-secret", &[], "loo"), "lookup");
    for program in psi_manual::programs() {
        let name = program.get_name();
        for file in [
            format!("zsh/site-functions/_{name}"),
            format!("fish/vendor_completions.d/{name}.fish"),
        ] {
            let text = fs::read_to_string(share.path().join(&file)).unwrap();
            assert!(text.contains(name), "{file}");
        }
    }
}

/// Options of other programs that the texts name by themselves.
const FOREIGN: [&str; 6] = [
    "--disable-polkit",
    "--tpm2-pcrs",
    "--help",
    "--loaded-session",
    "--secret",
    "--user",
];

#[test]
fn texts_name_only_commands_and_options_that_there_are() {
    let programs = psi_manual::programs();
    let mut texts: Vec<(PathBuf, String)> = ["README.md", "CONTRIBUTING.md"]
        .map(|name| (name.into(), fs::read_to_string(root().join(name)).unwrap()))
        .into();
    texts.extend(files("docs", "md"));
    texts.extend(files("src", "rs"));
    texts.extend(files("units", "service"));
    let mut checked = 0;
    let mut wrong = Vec::new();
    for (place, text) in texts {
        for said in commands(&text) {
            checked += 1;
            if let Err(why) = check(&programs, &said) {
                wrong.push(format!("{}: `{said}`: {why}", place.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 200, "{checked}");
}

#[test]
fn a_command_or_option_that_there_is_not_is_found() {
    let programs = psi_manual::programs();
    for good in [
        "psi-setup --dry-run",
        "psi-cachectl --config /f slots reseal 1 --pcrs 7",
        "psi-cachectl slots list|test",
        "psi-cachectl init --backend tpm|credential [--recovery]",
        "slots add recovery --label 'safe, second drawer'",
        "--prune-now",
    ] {
        assert_eq!(check(&programs, good), Ok(()), "{good}");
    }
    for bad in [
        "psi-setup --dryrun",
        "psi-cachectl slot list",
        "psi-cachectl slots list|tests",
        "psi-cachectl refresh --recovery",
        "status --verfy",
        "--prune",
    ] {
        assert!(check(&programs, bad).is_err(), "{bad}");
    }
}

/// The project's directory.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The files below the project's `directory` whose names end in `.extension`.
fn files(directory: &str, extension: &str) -> impl Iterator<Item = (PathBuf, String)> {
    let mut directories = vec![root().join(directory)];
    let mut files = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                let text = fs::read_to_string(&path).unwrap();
                files.push((path, text));
            }
        }
    }
    files.into_iter()
}

/// What `text` has in backquotes, in blocks of commands and in units, and what is a command of ours
/// or an option by itself.
fn commands(text: &str) -> Vec<String> {
    let joined = text.replace("\\\n", " ");
    let mut found = Vec::new();
    let mut block = None;
    for line in joined.lines() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            block = match block {
                Some(_) => None,
                None => Some(language.to_owned()),
            };
            continue;
        }
        let shown = match block.as_deref() {
            Some("sh") => Some(line),
            Some("console") => line.strip_prefix("$ "),
            _ => line.strip_prefix("ExecStart="),
        };
        let piped = shown.into_iter().flat_map(|line| line.split(['|', ';']));
        found.extend(piped.map(|part| part.trim().replace("/usr/bin/", "")));
    }
    // Backquotes are closed within a sentence.
    let prose: String = without_blocks(&joined);
    for (at, _) in prose.match_indices('`') {
        let rest = &prose[at + 1..];
        let end = rest.find('`').unwrap_or_default();
        found.push(rest[..end].split_whitespace().collect::<Vec<_>>().join(" "));
    }
    let is_ours = |said: &String| {
        let first = said.split(' ').next().unwrap_or_default();
        let is_program = [
            "psi-serve",
            "psi-setup",
            "psi-cachectl",
            "psi-hsm",
            "psi-secret",
            "psi-install",
        ]
        .contains(&first);
        let is_command = said.contains(' ')
            && [
                "init",
                "status",
                "refresh",
                "invalidate",
                "put",
                "rm",
                "slots",
            ]
            .contains(&first);
        is_program || is_command || (first.starts_with("--") && first.len() > 2)
    };
    found.retain(is_ours);
    found
}

fn without_blocks(text: &str) -> String {
    let mut parts = text.split("```");
    let mut prose = String::new();
    while let Some(part) = parts.next() {
        prose.push_str(part);
        parts.next();
    }
    prose
}

/// Whether the programs understand the words of `said`.
fn check(programs: &[Command], said: &str) -> Result<(), String> {
    let said = said
        .split(" #")
        .next()
        .unwrap_or_default()
        .replace('\\', "");
    let mut words = said.split(' ').filter(|w| !w.is_empty()).peekable();
    let first = words.peek().copied().unwrap_or_default();
    if first.starts_with("--") {
        let option = first.split(['=', ' ']).next().unwrap_or_default();
        let mut everywhere = programs.iter().flat_map(all);
        let is_known =
            FOREIGN.contains(&option) || everywhere.any(|(_, c)| takes(&c, option).is_some());
        return is_known
            .then_some(())
            .ok_or(format!("no program has {option}"));
    }
    let named = programs.iter().find(|p| p.get_name() == first);
    let mut command = match named {
        Some(program) => {
            words.next();
            program.clone()
        }
        None => programs[2].clone(),
    };
    command.build();
    while let Some(word) = words.next() {
        let word = word.trim_matches(['[', ']', ',', '.', ':', '\'', '"', ')']);
        if matches!(word, "&&" | "<" | ">" | "…" | "" | "COMMAND") {
            break;
        }
        if let Some(option) = word
            .strip_prefix("--")
            .map(|_| word.split('=').next().unwrap_or(word))
        {
            let value =
                takes(&command, option).ok_or(format!("{} has no {option}", command.get_name()))?;
            if value && !word.contains('=') {
                words.next();
            }
        } else if command.has_subcommands() {
            let mut last = None;
            for name in word.split('|') {
                let sub = command.find_subcommand(name).cloned();
                last = Some(sub.ok_or(format!("{} has no {name}", command.get_name()))?);
            }
            command = last.unwrap_or(command);
        }
    }
    Ok(())
}

/// Whether `option` of `command` has a value; nothing if there is no such option.
fn takes(command: &Command, option: &str) -> Option<bool> {
    let mut options = command.get_arguments();
    let found = options.find(|a| {
        a.get_long()
            .is_some_and(|long| option == format!("--{long}"))
    });
    found.map(|a| a.get_action().takes_values())
}

#[test]
fn each_dependency_has_its_reason_in_the_architecture_and_none_is_named_that_is_gone() {
    let read = |name: &str| fs::read_to_string(root().join(name)).unwrap();
    let manifest = read("Cargo.toml");
    let (_, rest) = manifest.split_once("\n[dependencies]\n").unwrap();
    let lines = rest.lines().take_while(|line| !line.starts_with('['));
    let direct: BTreeSet<&str> = lines
        .filter_map(|line| line.split_once(" = "))
        .map(|(name, _)| name)
        .collect();
    let page = read("docs/architecture.md");
    let (_, section) = page.split_once("\n## Dependencies\n").unwrap();
    let rows = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    assert_eq!(rows.collect::<BTreeSet<_>>(), direct);
}

#[test]
fn a_test_that_the_security_page_names_is_there() {
    let mut source = String::new();
    for directory in ["src", "tests", "manual"] {
        files(directory, "rs").for_each(|(_, text)| source.push_str(&text));
    }
    let page = fs::read_to_string(root().join("docs/security.md")).unwrap();
    let is_test = |name: &&str| {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        name.contains('_') && !name.is_empty() && name.chars().all(plain)
    };
    let named: Vec<&str> = page
        .split('`')
        .filter(is_test)
        .filter(|name| *name != "ca_cert")
        .collect();
    assert!(named.len() > 30, "{named:?}");
    for name in named {
        assert!(source.contains(&format!("fn {name}(")), "{name}");
    }
}

#[test]
fn what_a_page_links_to_is_there() {
    let root = root();
    let mut pages: Vec<PathBuf> = files("docs", "md").map(|(path, _)| path).collect();
    pages.extend(["README.md", "CONTRIBUTING.md"].map(|name| root.join(name)));
    let mut found = 0;
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        let links = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://")) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                _ => page.parent().unwrap().join(file),
            };
            let there = fs::read_to_string(&target);
            let there = there.unwrap_or_else(|e| panic!("{}: {link}: {e}", page.display()));
            let mut headings = there
                .lines()
                .filter(|line| line.starts_with('#'))
                .map(anchor);
            assert!(
                heading.is_empty() || headings.any(|h| h == heading),
                "{}: {link}",
                page.display()
            );
            found += 1;
        }
    }
    assert!(found > 20, "{found}");
}

/// As the usual renderers of Markdown make it of a heading.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}
