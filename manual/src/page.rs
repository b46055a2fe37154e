//! One man page.

use std::io::{self, Write};

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::text::{Section, Text};

/// The section of the manual that all pages are in.
const SECTION: &str = "1";

/// The file that the page of `command` is in.
pub fn file_name(command: &Command) -> String {
    format!("{}.{SECTION}", name(command))
}

/// The page of `command`, with the sections that its own text lacks from its `program`.
///
/// # Errors
/// If it can't be written to `out`.
pub fn write(out: &mut dyn Write, command: &Command, program: &Command) -> io::Result<()> {
    let version = program.get_version().unwrap_or_default();
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").to_owned();
    let man = Man::new(command.clone().override_usage(usage))
        .title(name(command).to_uppercase())
        .section(SECTION)
        .source(format!("PSI {version}"))
        .manual("PSI");
    man.render_title(out)?;
    // Commands and names of files must not be torn apart or spread.
    let mut roff = Roff::new();
    roff.control("nh", []).control("ad", ["l"]);
    roff.to_writer(out)?;
    man.render_name_section(out)?;
    man.render_synopsis_section(out)?;
    man.render_description_section(out)?;
    let mut roff = Roff::new();
    commands(&mut roff, command);
    roff.to_writer(out)?;
    man.render_options_section(out)?;
    let mut roff = Roff::new();
    for section in sections(command, program) {
        add(&mut roff, &section);
    }
    roff.to_writer(out)
}

fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or(command.get_name())
}

/// Whether `command` has more to it than one line, and a page for that.
pub fn has_page(command: &Command) -> bool {
    command.get_long_about().is_some()
        || command
            .get_arguments()
            .any(|a| !a.is_global_set() && a.get_id() != "help")
        || command.has_subcommands()
}

fn commands(roff: &mut Roff, command: &Command) {
    if !command.has_subcommands() {
        return;
    }
    roff.control("SH", ["COMMANDS"]);
    for sub in command.get_subcommands() {
        let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
        let see = match has_page(sub) {
            true => format!(": {}({SECTION})", name(sub)),
            false => String::new(),
        };
        roff.control("TP", []);
        roff.text([bold(sub.get_name())]);
        roff.text([roman(about + &see)]);
    }
}

/// Those of the command's own text; those it lacks, but for examples, from its program.
fn sections(command: &Command, program: &Command) -> Vec<Section> {
    let mut sections = help_of(command).sections;
    if name(command) == name(program) {
        return sections;
    }
    for mut section in help_of(program).sections {
        if section.heading == "See also" {
            let first = section.entries.first_mut();
            let also = format!("{}({SECTION}), ", name(program));
            first.into_iter().for_each(|e| e.term.insert_str(0, &also));
        }
        let is_missing = sections.iter().all(|s| s.heading != section.heading);
        if is_missing && section.heading != "Examples" {
            sections.push(section);
        }
    }
    sections
}

fn help_of(command: &Command) -> Text {
    let text = command.get_after_long_help().map(ToString::to_string);
    Text::parse(&text.unwrap_or_default())
}

fn add(roff: &mut Roff, section: &Section) {
    roff.control("SH", [section.heading.to_uppercase().as_str()]);
    for entry in &section.entries {
        if entry.text.is_empty() {
            roff.text([roman(entry.term.as_str())]);
            continue;
        }
        roff.control("TP", []);
        roff.text([bold(entry.term.as_str())]);
        roff.text([roman(entry.text.as_str())]);
    }
}
