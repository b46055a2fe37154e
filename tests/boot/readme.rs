//! What the README tells people to do.

use std::fs;

/// A numbered step's code blocks, each less its indentation, with the language it names.
pub fn blocks(section: &str) -> Vec<(String, String)> {
    let readme =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("the README");
    let heading = format!("\n## {section}\n");
    let (_, rest) = readme.split_once(&heading).expect("the section");
    let text = rest.split("\n## ").next().unwrap_or_default();
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.trim_start().strip_prefix("```") else {
            continue;
        };
        let indentation = line.len() - line.trim_start().len();
        let body = lines.by_ref().take_while(|line| line.trim() != "```");
        let body: Vec<&str> = body
            .map(|l| l.get(indentation..).unwrap_or_default())
            .collect();
        blocks.push((language.to_owned(), body.join("\n") + "\n"));
    }
    blocks
}
