//! The secrets routes: listing a folder, one secret by name, and creating one.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::Api;
use super::answer::{Answer, Result};
use super::imports::{Import, Place, imports};
use super::parameters::{Parameters, Version, field};
use super::references::{Strictness, expand};
use super::request::Request;
use super::view::View;
use super::world::{Right, Secret, World, uuid};

const HIDDEN: &str = "<hidden-by-infisical>";
const TIME: &str = "2024-10-24T12:00:00.000Z";

/// How values are wanted.
#[derive(Clone, Copy)]
struct Reading {
    expand: bool,
    show: bool,
    strictness: Strictness,
}

impl Reading {
    fn new(asked: &Parameters, strictness: Strictness) -> Self {
        Self {
            expand: asked.expand,
            show: asked.show_values,
            strictness,
        }
    }
}

/// `GET …/secrets/raw` and `GET /api/v4/secrets`.
pub(super) fn list(
    world: &World,
    client_id: &str,
    api: Api,
    version: Version,
    request: &Request,
) -> Result<Answer> {
    let asked = Parameters::read(version, &request.parameters())?;
    let view = View::open(world, client_id, &asked.project, api)?;
    let places = match asked.recursive {
        true => places_below(&view, &asked)?,
        false => place_at(&view, &asked)?.into_iter().collect(),
    };
    let mut found: Vec<_> = places
        .iter()
        .flat_map(|place| place.folder.secrets.iter().map(move |s| (*place, s)))
        .collect();
    found.sort_by_key(|(_, secret)| &secret.id);
    let reading = Reading::new(&asked, Strictness::Lenient);
    let secrets: Vec<_> = found
        .into_iter()
        .map(|(place, secret)| own(&view, reading, place, secret))
        .collect::<Result<_>>()?;
    let mut body = json!({ "secrets": secrets });
    if asked.with_imports || places.is_empty() {
        let entries: Vec<_> = imports(&view, &places)
            .iter()
            .map(|import| import_entry(&view, &asked, import))
            .collect::<Result<_>>()?;
        body["imports"] = entries.into();
    }
    Ok(Answer::ok(&body))
}

/// `GET …/secrets/raw/NAME` and `GET /api/v4/secrets/NAME`.
pub(super) fn one(
    world: &World,
    client_id: &str,
    api: Api,
    version: Version,
    name: &str,
    request: &Request,
) -> Result<Answer> {
    let asked = Parameters::read(version, &request.parameters())?;
    let view = View::open(world, client_id, &asked.project, api)?;
    view.require_right(asked.folder())?;
    let place = existing_place(&view, &asked)?;
    let reading = Reading::new(&asked, Strictness::Strict);
    if let Some(secret) = place.folder.secrets.iter().find(|s| s.key == name) {
        let mut item = own(&view, reading, place, secret)?;
        if version == Version::V3 {
            remove(&mut item, &["secretPath"]);
        }
        return Ok(Answer::ok(&json!({ "secret": item })));
    }
    let imports = match asked.with_imports {
        true => imports(&view, &[place]),
        false => Vec::new(),
    };
    for import in imports.iter().rev() {
        let found = import.secrets.iter().find(|(_, s)| s.key == name);
        if let Some(&(right, secret)) = found {
            let at = (import.environment, import.path);
            let value = value(&view, reading, at, right, secret)?;
            let mut item = item(&view, import.environment, secret, &value);
            remove(&mut item, &["tags"]);
            if version == Version::V4 {
                item["secretPath"] = import.path.into();
            }
            return Ok(Answer::ok(&json!({ "secret": item })));
        }
    }
    Err(Answer::not_found(&format!(
        "Secret with name '{name}' not found"
    )))
}

/// `POST …/secrets/raw/NAME` and `POST /api/v4/secrets/NAME`. Who may read may write.
pub(super) fn create(
    world: &mut World,
    client_id: &str,
    api: Api,
    version: Version,
    name: &str,
    request: &Request,
) -> Result<Answer> {
    let body = request.json()?;
    let new_value = field(&body, "secretValue")?;
    let text = |name: &str| Ok((name.to_owned(), vec![field(&body, name)?]));
    let mut given = ["environment", version.project_parameter()]
        .into_iter()
        .map(text)
        .collect::<Result<HashMap<_, _>>>()?;
    if !body["secretPath"].is_null() {
        given.extend([text("secretPath")?]);
    }
    let asked = Parameters::read(version, &given)?;
    let view = View::open(world, client_id, &asked.project, api)?;
    view.require_right(asked.folder())?;
    let place = existing_place(&view, &asked)?;
    if place.folder.secrets.iter().any(|s| s.key == name) {
        return Err(Answer::bad_request("Secret already exist"));
    }
    let (project, environment) = (&asked.project, &asked.environment);
    world.set(project, environment, asked.folder(), name, &new_value);
    let view = View::open(world, client_id, &asked.project, api)?;
    let place = existing_place(&view, &asked)?;
    let created = place.folder.secrets.iter().find(|s| s.key == name);
    let secret = created.map(|secret| item(&view, environment, secret, &secret.value));
    Ok(Answer::ok(&json!({ "secret": secret })))
}

/// The folder that is listed, if it is there.
fn place_at<'a>(view: &View<'a>, asked: &'a Parameters) -> Result<Option<Place<'a>>> {
    view.require_right(asked.folder())?;
    if !asked.has_plain_path() {
        return Err(Answer::broken());
    }
    let folder = view.folder(&asked.environment, asked.folder());
    Ok(folder.map(|folder| Place {
        environment: &asked.environment,
        path: &asked.path,
        folder,
    }))
}

/// Every folder that begins like the path, as far as the identity may see it.
fn places_below<'a>(view: &View<'a>, asked: &'a Parameters) -> Result<Vec<Place<'a>>> {
    let environment = asked.environment.as_str();
    if !view.has_environment(environment) {
        return Err(Answer::not_found(&format!(
            "Environment with slug '{environment}' not found"
        )));
    }
    let prefix = asked.folder();
    if !prefix.starts_with('/') {
        return Ok(Vec::new());
    }
    let place = |(path, folder)| Place {
        environment,
        path,
        folder,
    };
    let folders = view.folders_from(environment, prefix).into_iter();
    Ok(folders.map(place).collect())
}

fn existing_place<'a>(view: &View<'a>, asked: &'a Parameters) -> Result<Place<'a>> {
    let (environment, path) = (asked.environment.as_str(), asked.folder());
    let folder = view.folder(environment, path).ok_or_else(|| {
        let message =
            format!("Folder with path '{path}' in environment with slug '{environment}' not found");
        Answer::error(404, "GetSecretByName", message)
    })?;
    Ok(Place {
        environment,
        path,
        folder,
    })
}

/// One entry of `imports`. Its secrets are expanded whether that was asked for or not.
fn import_entry(view: &View<'_>, asked: &Parameters, import: &Import<'_>) -> Result<Value> {
    let at = (import.environment, import.path);
    let reading = Reading {
        expand: true,
        ..Reading::new(asked, Strictness::Lenient)
    };
    let secrets = import.secrets.iter().map(|&(right, secret)| {
        let value = value(view, reading, at, right, secret)?;
        let mut item = item(view, import.environment, secret, &value);
        remove(&mut item, &["createdAt", "updatedAt", "tags"]);
        item["workspace"] = "".into();
        Ok(item)
    });
    let mut entry = json!({
        "secretPath": import.path,
        "environment": import.environment,
        "secrets": secrets.collect::<Result<Vec<_>>>()?,
    });
    if let Some(source) = import.source {
        entry["folderId"] = uuid(&(view.project_id, source.environment, source.path)).into();
    }
    Ok(entry)
}

/// A secret of the folder itself.
fn own(view: &View<'_>, reading: Reading, place: Place<'_>, secret: &Secret) -> Result<Value> {
    // By the path without a slash at the end, which is what the folder was found by.
    let path = match place.path {
        "/" => "/",
        path => path.trim_end_matches('/'),
    };
    let right = view.require_right(path)?;
    let at = (place.environment, path);
    let value = value(view, reading, at, right, secret)?;
    let mut item = item(view, place.environment, secret, &value);
    item["secretPath"] = place.path.into();
    Ok(item)
}

fn value(
    view: &View<'_>,
    reading: Reading,
    at: (&str, &str),
    right: Right,
    secret: &Secret,
) -> Result<String> {
    let hidden = right == Right::List || (view.api == Api::V4 && !reading.show);
    match (hidden, reading.expand) {
        (true, _) => Ok(HIDDEN.into()),
        (false, true) => expand(view, reading.strictness, at, &secret.value),
        (false, false) => Ok(secret.value.clone()),
    }
}

/// What all answers say of a secret.
fn item(view: &View<'_>, environment: &str, secret: &Secret, value: &str) -> Value {
    let mut item = json!({
        "id": secret.id,
        "_id": secret.id,
        "workspace": view.project_id,
        "environment": environment,
        "version": secret.version,
        "type": "shared",
        "secretKey": secret.key,
        "secretValue": value,
        "secretComment": "",
        "skipMultilineEncoding": false,
        "tags": [],
        "createdAt": TIME,
        "updatedAt": TIME,
    });
    if view.api == Api::V4 {
        item["secretValueHidden"] = (value == HIDDEN).into();
    }
    item
}

fn remove(item: &mut Value, names: &[&str]) {
    if let Some(item) = item.as_object_mut() {
        item.retain(|name, _| !names.contains(&name.as_str()));
    }
}
