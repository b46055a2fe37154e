//! The shape that the programs' help has: paragraphs, then sections of entries.

/// A help text, taken apart.
#[derive(Debug, Default, PartialEq)]
pub struct Text {
    /// What stands before the first section.
    pub paragraphs: Vec<String>,
    /// What follows.
    pub sections: Vec<Section>,
}

/// A heading, and what stands below it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Section {
    /// Without its colon.
    pub heading: String,
    /// One or more.
    pub entries: Vec<Entry>,
}

/// A term, and what it means.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// An option, a file, a command…
    pub term: String,
    /// Empty, if the term says it all.
    pub text: String,
}

impl Text {
    /// Takes `help` apart.
    pub fn parse(help: &str) -> Self {
        let mut text = Self::default();
        for line in help.lines() {
            text.add(line);
        }
        text.paragraphs.retain(|paragraph| !paragraph.is_empty());
        text
    }

    /// The section that has this heading.
    pub fn section(&self, heading: &str) -> Option<&Section> {
        self.sections.iter().find(|s| s.heading == heading)
    }

    fn add(&mut self, line: &str) {
        let content = line.trim_start();
        let indentation = line.len() - content.len();
        let Some(section) = self.sections.last_mut() else {
            return match heading(line) {
                Some(heading) => self.sections.push(Section::new(heading)),
                None => self.add_to_paragraphs(line),
            };
        };
        match (indentation, heading(line)) {
            (0, Some(heading)) => self.sections.push(Section::new(heading)),
            (0, None) => {}
            (2, _) => match section.entries.last_mut().filter(|e| e.is_unfinished()) {
                Some(entry) => entry.term = format!("{} {content}", entry.term),
                None => section.entries.push(Entry::begin(content)),
            },
            _ => {
                if let Some(entry) = section.entries.last_mut() {
                    entry.continue_with(content);
                }
            }
        }
    }

    fn add_to_paragraphs(&mut self, line: &str) {
        match self.paragraphs.last_mut() {
            Some(last) if !line.is_empty() && !last.is_empty() => {
                last.push(' ');
                last.push_str(line);
            }
            _ => self.paragraphs.push(line.to_owned()),
        }
    }
}

fn heading(line: &str) -> Option<&str> {
    line.strip_suffix(':').filter(|_| !line.starts_with(' '))
}

impl Section {
    fn new(heading: &str) -> Self {
        Self {
            heading: heading.to_owned(),
            entries: Vec::new(),
        }
    }
}

impl Entry {
    fn begin(content: &str) -> Self {
        let (term, text) = content.split_once("  ").unwrap_or((content, ""));
        Self {
            term: term.to_owned(),
            text: text.trim_start().to_owned(),
        }
    }

    /// Whether its term goes on in the next line.
    fn is_unfinished(&self) -> bool {
        self.text.is_empty() && self.term.ends_with(',')
    }

    fn continue_with(&mut self, content: &str) {
        if !self.text.is_empty() {
            self.text.push(' ');
        }
        self.text.push_str(content);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(term: &str, text: &str) -> Entry {
        Entry {
            term: term.to_owned(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn paragraphs_end_at_blank_lines_and_entries_have_their_text_beside_or_below() {
        let help = "One\ntwo.\n\nThree.\n\nFiles:\n  /a  text\n      goes on\n  /b,\n  /c\n      below\n\nSee also:\n  c(1)\n";
        let text = Text::parse(help);
        assert_eq!(text.paragraphs, ["One two.", "Three."]);
        let files = text.section("Files").unwrap();
        assert_eq!(
            files.entries,
            [entry("/a", "text goes on"), entry("/b, /c", "below")]
        );
        assert_eq!(
            text.section("See also").unwrap().entries,
            [entry("c(1)", "")]
        );
    }
}
