//! What a request asks about: its parameters, checked as the server checks them.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::answer::{Answer, Result};

/// Generation of the secrets routes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Version {
    V3,
    V4,
}

impl Version {
    pub fn project_parameter(self) -> &'static str {
        match self {
            Self::V3 => "workspaceId",
            Self::V4 => "projectId",
        }
    }
}

#[derive(Debug)]
pub(super) struct Parameters {
    pub project: String,
    pub environment: String,
    /// As the server repeats it in its answer.
    pub path: String,
    pub recursive: bool,
    pub with_imports: bool,
    pub expand: bool,
    pub show_values: bool,
}

impl Parameters {
    pub fn read(version: Version, given: &HashMap<String, Vec<String>>) -> Result<Self> {
        let mut form = Form {
            given,
            issues: Vec::new(),
        };
        let project = form.text(version.project_parameter());
        let by_slug = form.text("workspaceSlug");
        let environment = form.text("environment");
        let path = form.text("secretPath").unwrap_or_else(|| "/".into());
        let read = Self {
            project: project.clone().unwrap_or_default(),
            environment: environment.clone().unwrap_or_default(),
            path: without_slash(&path).into(),
            recursive: form.flag("recursive", false),
            with_imports: form.flag("include_imports", false),
            expand: form.flag("expandSecretReferences", false),
            show_values: form.flag("viewSecretValue", true),
        };
        if version == Version::V4 {
            form.require(version.project_parameter(), project.as_ref());
            form.require("environment", environment.as_ref());
        }
        if !form.issues.is_empty() {
            return Err(Answer::invalid(form.issues));
        }
        if by_slug.is_some() {
            return Err(Answer::broken());
        }
        if read.project.is_empty() || read.environment.is_empty() {
            return Err(Answer::bad_request("Missing workspace id or environment"));
        }
        Ok(read)
    }

    /// The path under which the folder is looked for: one more slash is cut off than the one that
    /// the answer lacks.
    pub fn folder(&self) -> &str {
        without_slash(&self.path)
    }

    /// Whether the path has nothing in it that breaks the server's query.
    pub fn has_plain_path(&self) -> bool {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '/');
        self.path.chars().all(plain)
    }
}

fn without_slash(path: &str) -> &str {
    match path.strip_suffix('/') {
        Some(rest) if !rest.is_empty() => rest,
        _ => path,
    }
}

/// The parameters as they came, and what is wrong with them.
struct Form<'a> {
    given: &'a HashMap<String, Vec<String>>,
    issues: Vec<Value>,
}

impl Form<'_> {
    fn text(&mut self, name: &str) -> Option<String> {
        match self.given.get(name)?.as_slice() {
            [value] => Some(value.clone()),
            _ => {
                self.issues.push(wrong_type(name, "array"));
                None
            }
        }
    }

    fn flag(&mut self, name: &str, default: bool) -> bool {
        match self.text(name).as_deref() {
            None => default,
            Some("true") => true,
            Some("false") => false,
            Some(other) => {
                self.issues.push(json!({
                    "received": other,
                    "code": "invalid_enum_value",
                    "options": ["true", "false"],
                    "path": [name],
                    "message":
                        format!("Invalid enum value. Expected 'true' | 'false', received '{other}'"),
                }));
                default
            }
        }
    }

    fn require(&mut self, name: &str, value: Option<&String>) {
        if value.is_none() {
            self.issues.push(wrong_type(name, "undefined"));
        }
    }
}

/// The text at `name` of a JSON body.
pub(super) fn field(body: &Value, name: &str) -> Result<String> {
    let issue = match &body[name] {
        Value::String(text) => return Ok(text.clone()),
        Value::Null => wrong_type(name, "undefined"),
        Value::Bool(_) => wrong_type(name, "boolean"),
        Value::Number(_) => wrong_type(name, "number"),
        Value::Array(_) => wrong_type(name, "array"),
        Value::Object(_) => wrong_type(name, "object"),
    };
    Err(Answer::invalid(vec![issue]))
}

fn wrong_type(name: &str, received: &str) -> Value {
    let message = match received {
        "undefined" => "Required".to_owned(),
        _ => format!("Expected string, received {received}"),
    };
    json!({
        "code": "invalid_type",
        "expected": "string",
        "received": received,
        "path": [name],
        "message": message,
    })
}
