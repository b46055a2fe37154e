//! Man pages and shell completions of PSI's programs, from what their `--help` says.
//!
//! psi-serve, psi-setup, psi-cachectl, psi-hsm and psi-install have their command lines from clap, so theirs
//! are asked for. psi-secret does without clap: its help text is read instead.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::Path;

use clap::{Arg, Command, CommandFactory};
use clap_complete::Shell;

mod page;
mod text;

#[path = "../../src/bin/psi-cachectl/args.rs"]
pub mod psi_cachectl;
#[path = "../../src/bin/psi-hsm/args.rs"]
pub mod psi_hsm;
#[path = "../../src/bin/psi-install/args.rs"]
pub mod psi_install;
#[path = "../../src/bin/psi-secret/help.rs"]
pub mod psi_secret;
#[path = "../../src/bin/psi-serve/args.rs"]
pub mod psi_serve;
#[path = "../../src/bin/psi-setup/args.rs"]
pub mod psi_setup;

use text::{Entry, Text};

/// The programs' command lines.
pub fn programs() -> [Command; 6] {
    [
        psi_serve::Args::command(),
        psi_setup::Args::command(),
        psi_cachectl::Args::command(),
        psi_hsm::Args::command(),
        psi_install::Args::command(),
        secret(),
    ]
}

/// Writes all pages and completions below `share`, where a system has them.
///
/// # Errors
/// What keeps a file from being written.
pub fn write(share: &Path) -> io::Result<()> {
    for program in programs() {
        write_completions(share, &program)?;
        let mut program = program.disable_help_subcommand(true);
        program.build();
        write_pages(&share.join("man/man1"), &program, &program)?;
    }
    Ok(())
}

fn write_pages(directory: &Path, command: &Command, program: &Command) -> io::Result<()> {
    let mut out = create(directory, &page::file_name(command))?;
    page::write(&mut out, command, program)?;
    out.into_inner()?;
    let with_page = command.get_subcommands().filter(|c| page::has_page(c));
    with_page
        .into_iter()
        .try_for_each(|sub| write_pages(directory, sub, program))
}

fn write_completions(share: &Path, program: &Command) -> io::Result<()> {
    let name = program.get_name();
    for (shell, directory, file) in [
        (Shell::Bash, "bash-completion/completions", name.to_owned()),
        (Shell::Zsh, "zsh/site-functions", format!("_{name}")),
        (
            Shell::Fish,
            "fish/vendor_completions.d",
            format!("{name}.fish"),
        ),
    ] {
        let mut out = create(&share.join(directory), &file)?;
        clap_complete::generate(shell, &mut program.clone(), name, &mut out);
        out.into_inner()?;
    }
    Ok(())
}

fn create(directory: &Path, name: &str) -> io::Result<BufWriter<File>> {
    fs::create_dir_all(directory)?;
    File::create(directory.join(name)).map(BufWriter::new)
}

/// psi-secret's command line, as its help text has it.
fn secret() -> Command {
    let text = Text::parse(psi_secret::HELP);
    let (usage, about): (Vec<&String>, Vec<&String>) = text
        .paragraphs
        .iter()
        .partition(|p| p.starts_with("Usage: "));
    let usage = usage
        .first()
        .map_or("", |usage| usage.trim_start_matches("Usage: "));
    let entries = |heading| text.section(heading).map_or(&[][..], |s| &s.entries);
    let rest = psi_secret::HELP
        .split_once("\nExamples:")
        .map_or("", |(_, rest)| rest);
    Command::new("psi-secret")
        .version(env!("CARGO_PKG_VERSION"))
        .about(
            about
                .first()
                .map_or("", |p| p.trim_end_matches('.'))
                .to_owned(),
        )
        .long_about(
            about
                .iter()
                .map(|p| p.as_str())
                .collect::<Vec<_>>()
                .join("\n\n"),
        )
        .override_usage(usage.to_owned())
        .after_long_help(format!("Examples:{rest}"))
        .subcommand_required(true)
        .subcommands(entries("Commands").iter().map(command))
        .args(entries("Options").iter().filter_map(option))
}

fn command(entry: &Entry) -> Command {
    Command::new(for_ever(&entry.term)).about(entry.text.clone())
}

/// Nothing for `--help` and `--version`, which clap adds by itself.
fn option(entry: &Entry) -> Option<Arg> {
    let (name, value) = entry.term.strip_prefix("--")?.split_once(' ')?;
    let name = for_ever(name);
    let value = for_ever(value.trim_matches(['<', '>']));
    let option = Arg::new(name).long(name).value_name(value);
    Some(option.help(entry.text.clone()).global(true))
}

/// clap takes no other names.
fn for_ever(name: &str) -> &'static str {
    name.to_owned().leak()
}
