//! What the README and other pages tell people to do.

use std::fs;
use std::path::Path;

/// [`blocks_of`] the README.
pub fn blocks(section: &str) -> Vec<(String, String)> {
    blocks_of("README.md", section)
}

/// The code blocks of a section of a page, each less its indentation, with the language it names.
pub fn blocks_of(page: &str, section: &str) -> Vec<(String, String)> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    let page = fs::read_to_string(page).expect("the page");
    let heading = format!("\n## {section}\n");
    let (_, rest) = page.split_once(&heading).expect("the section");
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

/// The blocks of a section of docs/deployment.md that are commands.
pub fn deployment(section: &str) -> Vec<String> {
    let blocks = blocks_of("docs/deployment.md", section).into_iter();
    let commands = blocks.filter(|(language, _)| language == "sh");
    commands.map(|(_, block)| block).collect()
}

/// The configuration that the README has.
pub fn configuration() -> String {
    let mut blocks = blocks("Set it up").into_iter();
    let found = blocks.find(|(language, _)| language == "yaml");
    found.expect("the configuration").1
}
